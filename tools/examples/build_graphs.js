// Builds workflows and blueprints in the front end itself, so that each file equals what a user would save.
// make_workflows.py evaluates this file in ComfyUI's page: it is one expression, an object of functions.
({
  GAP: 44, // between nodes; a title is 30 px tall
  BETWEEN: 46, // between columns
  TITLE: 30,
  GROUP: 34, // the title of a group

  /** Adds a described node to the graph that is open. `id` undefined lets the front end choose. */
  create({ type, title, widgets, collapsed, properties }, id) {
    const node = LiteGraph.createNode(type);
    if (!node) throw new Error(`no node ${type}`);
    if (id !== undefined) node.id = id;
    app.graph.add(node);
    if (title) node.title = title;
    Object.assign(node.properties, properties);
    this.setWidgets(node, widgets, type);
    if (collapsed) node.flags.collapsed = true;
    return node;
  },

  setWidgets(node, widgets, type) {
    for (const [key, value] of Object.entries(widgets)) {
      const widget =
        type === "MarkdownNote" ? node.widgets[0] : node.widgets?.find((each) => each.name === key);
      if (!widget) throw new Error(`${type} has no widget ${key}`);
      widget.value = value;
    }
  },

  connect(made, links) {
    for (const [from, output, to, input] of links) {
      const a = made[from].findOutputSlot(output);
      const b = made[to].findInputSlot(input);
      if (a < 0 || b < 0 || !made[from].connect(a, made[to], b))
        throw new Error(`cannot connect ${from}.${output} to ${to}.${input}`);
    }
  },

  /**
   * Places nodes in columns, from their real sizes. A node with height -1 fills its column. `measured` has
   * the heights in the other renderer. Returns each column's box.
   */
  place(made, columns, nodes, measured, grouped) {
    const tall = (name) => {
      if (nodes[name].collapsed) return 0;
      const given = Math.max(nodes[name].height, 0);
      return Math.ceil(Math.max(given, made[name].computeSize()[1], measured[name] ?? 0) / 10) * 10;
    };
    const [first] = columns;
    const noteName = first.nodes.find((name) => nodes[name].type === "MarkdownNote");
    let under = 0;
    if (noteName) {
      const note = made[noteName];
      const covered = columns.slice(0, nodes[noteName].span);
      const width = covered.reduce((sum, each) => sum + each.width + this.BETWEEN, -this.BETWEEN);
      note.pos = [0, 0];
      note.setSize([width, tall(noteName)]);
      under = note.size[1] + this.GAP + (grouped ? this.GROUP + 8 : 0);
    }
    let x = 0;
    const boxes = columns.map(({ width, nodes: names }, index) => {
      const beside = grouped && noteName ? this.GROUP - 10 : 0;
      const top = noteName && index < nodes[noteName].span ? under : beside;
      let y = top;
      const own = names.filter((name) => name !== noteName);
      for (const name of own) {
        made[name].pos = [x, y];
        made[name].setSize([Math.max(width, made[name].computeSize()[0]), tall(name)]);
        y += tall(name) + this.GAP;
      }
      const box = { x, top, bottom: y - this.GAP, width, own };
      x += width + this.BETWEEN;
      return box;
    });
    const bottom = Math.max(...boxes.map((box) => box.bottom));
    for (const box of boxes) {
      const filling = box.own.findIndex((name) => nodes[name].height === -1);
      if (filling < 0) continue;
      const more = bottom - box.bottom;
      const node = made[box.own[filling]];
      node.setSize([node.size[0], node.size[1] + more]);
      for (const name of box.own.slice(filling + 1)) made[name].pos = [box.x, made[name].pos[1] + more];
      box.bottom = bottom;
    }
    return boxes;
  },

  /** Frames the columns. Columns of one title share a frame if they begin at the same height. */
  group(columns, boxes) {
    const pad = 12;
    const frames = [];
    columns.forEach(({ title }, index) => {
      const box = boxes[index];
      const last = frames.at(-1);
      if (last?.title === title && last.top === box.top) {
        last.right = box.x + box.width;
        last.bottom = Math.max(last.bottom, box.bottom);
      } else {
        frames.push({ title, left: box.x, right: box.x + box.width, top: box.top, bottom: box.bottom });
      }
    });
    for (const { title, left, right, top, bottom } of frames) {
      const group = new LiteGraph.LGraphGroup(title);
      app.graph.add(group);
      group.pos = [left - pad, top - this.TITLE - this.GROUP];
      group.size = [right - left + 2 * pad, bottom - top + this.TITLE + this.GROUP + pad];
      group.font_size = 20;
    }
  },

  /** Opens a graph. The front end keeps values of widgets by the ids of graph and node: each graph is new. */
  async open(nodes, subgraphs) {
    await app.loadGraphData({
      id: crypto.randomUUID(),
      last_node_id: 0,
      last_link_id: 0,
      nodes,
      links: [],
      groups: [],
      definitions: { subgraphs },
      config: {},
      extra: {},
      version: 0.4,
    });
  },

  /** Returns a file of a custom node's subgraphs folder. */
  async blueprint({ title, id, first, nodes, links, columns, takes, gives, measured, ...texts }) {
    const { category, description, aliases } = texts;
    await this.open([], []);
    const made = {};
    let next = first;
    for (const [name, node] of Object.entries(nodes)) made[name] = this.create(node, next++);
    this.connect(made, links);
    this.place(made, columns, nodes, measured, false);
    const { subgraph, node: host } = app.graph.convertToSubgraph(new Set(Object.values(made)));
    for (const slot of [...subgraph.inputs]) subgraph.removeInput(slot);
    for (const slot of [...subgraph.outputs]) subgraph.removeOutput(slot);
    const inner = Object.fromEntries(
      Object.keys(nodes).map((name, index) => [name, subgraph.getNodeById(first + index)]),
    );
    for (const [name, label, ...targets] of takes) {
      const slots = targets.map((target) => {
        const [node, key] = target.split(".");
        const slot = inner[node].inputs.find((each) => each.name === key);
        if (!slot) throw new Error(`${title}: no input ${target}`);
        return [slot, inner[node]];
      });
      const input = subgraph.addInput(name, String(slots[0][0].type));
      for (const [slot, node] of slots) {
        if (!input.connect(slot, node)) throw new Error(`${title}: cannot connect ${name}`);
      }
      subgraph.renameInput(input, label);
    }
    for (const [name, label, source] of gives) {
      const [node, key] = source.split(".");
      const place = inner[node].findOutputSlot(key);
      if (place < 0) throw new Error(`${title}: no output ${source}`);
      const slot = inner[node].outputs[place];
      const output = subgraph.addOutput(name, String(slot.type));
      output.connect(slot, inner[node]);
      subgraph.renameOutput(output, label);
    }
    const xs = Object.values(inner).flatMap((node) => [node.pos[0], node.pos[0] + node.size[0]]);
    const y = Math.min(...Object.values(inner).map((node) => node.pos[1]));
    subgraph.inputNode.pos = [Math.min(...xs) - 260, y];
    subgraph.outputNode.pos = [Math.max(...xs) + 60, y];
    subgraph.name = host.title = title;
    host.pos = [0, 0];
    host.setSize([300, host.computeSize()[1]]);
    const saved = app.graph.serialize();
    const [definition] = saved.definitions.subgraphs;
    Object.assign(definition, { category, description });
    const text = JSON.stringify({
      revision: 0,
      last_node_id: host.id,
      last_link_id: 0,
      nodes: saved.nodes,
      links: [],
      groups: [],
      definitions: saved.definitions,
      config: {},
      extra: { BlueprintDescription: description, BlueprintSearchAliases: aliases },
      version: saved.version,
    });
    return JSON.parse(text.replaceAll(definition.id, id));
  },

  /** Returns a workflow. `blueprints` has the files of the blueprints that its nodes use, by title. */
  async workflow({ nodes, links, columns, labels, blueprints, measured }) {
    const numbers = Object.fromEntries(Object.keys(nodes).map((name, index) => [name, index + 1]));
    const hosts = Object.entries(nodes).filter(([, { type }]) => type in blueprints);
    const used = [...new Set(hosts.map(([, { type }]) => type))];
    await this.open(
      hosts.map(([name, { type }]) => ({ ...blueprints[type].nodes[0], id: numbers[name] })),
      used.flatMap((type) => blueprints[type].definitions.subgraphs),
    );
    const made = {};
    for (const [name, node] of Object.entries(nodes)) {
      if (node.type in blueprints) {
        made[name] = app.graph.getNodeById(numbers[name]);
        made[name].title = node.title || node.type;
        this.setWidgets(made[name], node.widgets, node.type);
        if (node.collapsed) made[name].flags.collapsed = true;
      } else {
        made[name] = this.create(node, numbers[name]);
      }
    }
    this.connect(made, links);
    const grouped = columns.some(({ title }) => title);
    const boxes = this.place(made, columns, nodes, measured, grouped);
    if (grouped) this.group(columns, boxes);
    for (const [name, key, label] of labels) {
      const node = made[name];
      node.widgets.find((each) => each.name === key).label = label;
      const input = node.inputs.find((each) => each.widget?.name === key);
      if (input) input.label = label;
    }
    const saved = app.graph.serialize();
    const { last_node_id, last_link_id, groups, definitions, version } = saved;
    const file = { last_node_id, last_link_id, nodes: saved.nodes, links: saved.links, groups };
    if (used.length) file.definitions = definitions;
    return { ...file, config: {}, extra: {}, version };
  },

  /** Shows the nodes inside the first node of the workflow that is open. */
  enter() {
    app.canvas.setGraph(app.graph.nodes[0].subgraph);
  },

  /** Returns the height of each node (by id) of the graph that is shown. */
  heights() {
    return Object.fromEntries(
      app.canvas.graph.nodes.map((node) => [node.id, node.flags.collapsed ? 0 : node.size[1]]),
    );
  },
})
