// Lets this pack's workflows run at once: a sample picture that a workflow names and that is not in
// ComfyUI's input folder is put there when the workflow is opened. ComfyUI does so for no template.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SAMPLES = [
  "restoration_coffee.jpg",
  "restoration_crew.jpg",
  "restoration_face.jpg",
  "restoration_original.jpg",
  "restoration_scratched.png",
];
const PACK = new URL(import.meta.url).pathname.split("/").at(-2);

async function isInput(name) {
  const query = new URLSearchParams({ filename: name, type: "input" });
  return (await api.fetchApi(`/view?${query}`, { method: "HEAD" })).ok;
}

async function putIntoInput(name) {
  const sample = await api.fetchApi(`/workflow_templates/${PACK}/inputs/${name}`);
  if (!sample.ok) return false;
  const body = new FormData();
  body.append("image", await sample.blob(), name);
  return (await api.fetchApi("/upload/image", { method: "POST", body })).ok;
}

app.registerExtension({
  name: "restoration.samples",
  async beforeConfigureGraph(workflow) {
    const loaders = (workflow.nodes ?? []).filter((node) => node.type === "LoadImage");
    const named = new Set(loaders.map((node) => node.widgets_values?.[0]));
    let added = false;
    for (const name of SAMPLES) {
      if (named.has(name) && !(await isInput(name))) {
        added = (await putIntoInput(name)) || added;
      }
    }
    if (added) await app.refreshComboInNodes(); // else Load Image calls the new picture missing
  },
});
