// Shows the tables of Restoration Metrics and Restoration Flicker inside the nodes; ComfyUI itself does so for Preview Any only.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "restoration.metrics",
  nodeCreated(node) {
    if (!["RestorationMetrics", "RestorationFlicker"].includes(node.comfyClass)) return;
    const area = document.createElement("textarea");
    area.readOnly = true;
    area.placeholder = "The figures appear here.";
    area.className = "comfy-multiline-input";
    area.style.fontFamily = "monospace";
    area.style.whiteSpace = "pre";
    // The table is a result: it belongs neither into the workflow nor into the prompt.
    const widget = node.addDOMWidget("figures", "text", area, {
      serialize: false,
      getMinHeight: () => 120,
    });
    widget.serialize = false;
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      area.value = output?.text?.join("\n") ?? "";
    };
  },
});
