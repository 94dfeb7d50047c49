// Lets this pack's workflows run at once: a sample picture or video that a workflow names and that is not in
// ComfyUI's input folder is put there when the workflow is opened. ComfyUI does so for no template.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SAMPLES = [
  "restoration_clip.mp4",
  "restoration_coffee.jpg",
  "restoration_crew.jpg",
  "restoration_face.jpg",
  "restoration_old_photo.jpg",
  "restoration_original.jpg",
  "restoration_raccoon.png",
  "restoration_scratched.png",
];
// Folders of pictures that a training learns from.
const FOLDERS = {
  restoration_train: ["astronaut.jpg", "chelsea.jpg", "rocket.jpg"],
};
const PACK = new URL(import.meta.url).pathname.split("/").at(-2);

async function isInput(name, subfolder = "") {
  const query = new URLSearchParams({ filename: name, subfolder, type: "input" });
  return (await api.fetchApi(`/view?${query}`, { method: "HEAD" })).ok;
}

async function putIntoInput(name, subfolder = "") {
  const place = subfolder ? `${subfolder}/${name}` : name;
  const sample = await api.fetchApi(`/workflow_templates/${PACK}/inputs/${place}`);
  if (!sample.ok) return false;
  const body = new FormData();
  body.append("image", await sample.blob(), name);
  body.append("subfolder", subfolder);
  return (await api.fetchApi("/upload/image", { method: "POST", body })).ok;
}

app.registerExtension({
  name: "restoration.samples",
  async beforeConfigureGraph(workflow) {
    const loaders = ["LoadImage", "LoadVideo", "RestorationPairCrops"];
    const nodes = (workflow.nodes ?? []).filter((node) => loaders.includes(node.type));
    const named = new Set(nodes.map((node) => node.widgets_values?.[0]));
    const wanted = SAMPLES.filter((name) => named.has(name)).map((name) => [name, ""]);
    for (const [folder, names] of Object.entries(FOLDERS)) {
      if (named.has(folder)) wanted.push(...names.map((name) => [name, folder]));
    }
    let added = false;
    for (const [name, folder] of wanted) {
      if (!(await isInput(name, folder))) added = (await putIntoInput(name, folder)) || added;
    }
    if (added) await app.refreshComboInNodes(); // else Load Image or Load Video calls the new file missing
  },
});
