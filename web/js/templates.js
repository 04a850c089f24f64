// Lists of the server that people read: templates in the order of their numbers, and blueprints that are found
// by their words. ComfyUI lists templates as the file system does, and forgets the words of a pack's blueprints.
import { api } from "../../../scripts/api.js";

const FIRST = "01 Learn an edit from pairs";
const OURS = "InstructBrush";

/** Call once, before the front end asks for the lists. */
export function improveLists() {
  after("getWorkflowTemplates", (templates) => {
    Object.values(templates).find((names) => names.includes(FIRST))?.sort();
  });
  after("getGlobalSubgraphs", async (blueprints) => {
    const own = Object.values(blueprints).filter(({ source }) => source === "custom_node");
    await Promise.all(own.map((each) => addWords(each).catch(() => {})));
  });
}

async function addWords({ info, data }) {
  const { definitions, extra } = JSON.parse(await data);
  if (definitions.subgraphs[0].category === OURS) info.search_aliases ??= extra.BlueprintSearchAliases;
}

function after(method, improve) {
  const list = api[method]?.bind(api);
  if (!list) return;
  api[method] = async (...given) => {
    const found = await list(...given);
    await improve(found);
    return found;
  };
}
