"use strict";
// The report of a program. All data is JSON in this page; text gets in through textContent alone, so no name can do anything.

const ROW = 22; // pixels of a row of the spine
const SVG = "http://www.w3.org/2000/svg";
const PHASES = { fwd: "forward", bwd: "backward", opt: "optimizer" };

/** An element with properties, attributes (in `attributes`) and children, which are elements or text. */
function make(tag, properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** An SVG element; `text` is its text. */
function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const size = (n) => {
  for (const [unit, of] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (Math.abs(n) >= of) return `${(n / of).toFixed(2)} ${unit}`;
  return `${n} B`;
};
const time = (s) => (s >= 1 ? `${s.toFixed(2)} s` : s >= 1e-3 ? `${(s * 1e3).toFixed(3)} ms` : `${(s * 1e6).toFixed(1)} µs`);
const byId = (id) => document.getElementById(id);

/** A table; `figures` are the columns that are numbers. */
function table(head, rows, figures = []) {
  const cell = (x, i) => make("td", { className: figures.includes(i) ? "figure" : "" }, x);
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((x) => make("th", {}, x)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
}

/** What has a colour in source, by language: a named group for each kind, tried in this order. */
const SYNTAX = {
  c: /(?<comment>\/\*[^]*?\*\/|\/\/.*)|(?<directive>^[ \t]*#(?:.*\\\n)*.*)|(?<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?<number>\b(?:0x[\da-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?)[fFuUlL]*)|(?<keyword>\b(?:break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while)\b)|(?<name>\b[A-Za-z_]\w*(?=\())/gm,
  python: /(?<comment>#.*)|(?<string>"""[^]*?"""|'''[^]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?<directive>^[ \t]*@[\w.]+)|(?<number>\b(?:0x[\da-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?))|(?<keyword>\b(?:and|as|assert|break|class|continue|def|elif|else|False|for|from|if|import|in|is|lambda|None|not|or|pass|raise|return|True|while|with|yield)\b)|(?<name>\b[A-Za-z_]\w*(?=\())/gm,
};

/** Source with its pieces in the colours of their kinds. */
function painted(language, text) {
  const pre = make("pre", { className: "source" });
  let at = 0;
  for (const found of text.matchAll(SYNTAX[language])) {
    const [kind] = Object.entries(found.groups).find(([, piece]) => piece !== undefined);
    pre.append(text.slice(at, found.index), make("span", { className: kind }, found[0]));
    at = found.index + found[0].length;
  }
  pre.append(text.slice(at));
  return pre;
}

class Report {
  constructor(data) {
    this.data = data;
    this.folded = new Set();
    this.selected = -1;
    this.readers = data.launches.map(() => []);
    data.launches.forEach((launch, i) => launch.reads.forEach(([, , from]) => from >= 0 && from !== i && this.readers[from].push(i)));
    this.tabs = { Launches: () => this.launches(), Ablation: () => this.ablation(), Roofline: () => this.roofline(),
      Memory: () => this.memory(), IR: () => this.ir(), Compiling: () => this.compiling() };
  }

  start() {
    const { data } = this;
    document.title = data.title;
    byId("title").textContent = data.title;
    const seconds = data.launches.reduce((sum, x) => sum + (x.seconds ?? x.predicted), 0);
    const how = data.launches[0]?.seconds === undefined ? "predicted" : "measured";
    byId("totals").textContent = `${data.launches.length} launches, ${size(data.ledger.fused)} moved of ` +
      `${size(data.ledger.unfused)} without fusion` + (seconds ? `, ${time(seconds)} ${how}` : "");
    for (const name of Object.keys(this.tabs)) {
      byId("tabs").append(make("button", { textContent: name, onclick: () => this.show(name), attributes: { role: "tab" } }));
    }
    byId("search").oninput = () => this.search(byId("search").value.trim().toLowerCase());
    this.show("Launches");
    performance.mark("ready");
    document.documentElement.dataset.ready = "yes";
  }

  show(name) {
    for (const tab of byId("tabs").children) tab.setAttribute("aria-selected", tab.textContent === name);
    byId("main").replaceChildren(this.tabs[name]());
    if (name === "Launches") this.link();
  }

  // --- launches along a spine ---------------------------------------------------------------------------------------

  launches() {
    this.spine = make("div", { id: "spine" });
    this.detail = make("div", { id: "detail" }, make("p", {}, "A launch shows its nodes, your lines, its source and every verdict on it."));
    this.fill();
    return make("div", { className: "split" }, this.spine, this.detail);
  }

  fill() {
    const rows = [make("div", { className: "row lanes" }, ...Object.values(PHASES).map((x) => make("span", {}, x)))];
    this.y = [];
    let head = null;
    this.data.launches.forEach((launch, i) => {
      const module = launch.module.split(".").slice(0, 2).join(".") || "(no module)";
      const key = `${module} ${launch.phase}`;
      if (head === null || head.key !== key) {
        head = { key, id: `${key} ${i}`, at: rows.length };
        const { id } = head;
        const fold = () => (this.folded.has(id) ? this.folded.delete(id) : this.folded.add(id), this.fill(), this.link());
        const mark = this.folded.has(id) ? "▸" : "▾";
        rows.push(make("div", { className: "fold" }, make("button", { onclick: fold }, `${mark} ${module}, ${PHASES[launch.phase]}`)));
      }
      if (this.folded.has(head.id)) {
        this.y[i] = head.at * ROW + ROW / 2;
        return;
      }
      this.y[i] = rows.length * ROW + ROW / 2;
      const spent = launch.seconds ?? launch.predicted;
      const button = make("button", { className: launch.phase, title: launch.title, onclick: () => this.select(i),
        attributes: { "data-launch": i, "aria-current": i === this.selected } }, launch.title + " ",
        make("small", {}, spent ? time(spent) : size(launch.read + launch.written)));
      rows.push(make("div", { className: "row" }, button));
    });
    this.spine.replaceChildren(...rows);
  }

  /** Edges of the selected launch, in the gutter: what it reads in blue, who reads it in red. */
  link() {
    this.spine.querySelector("svg")?.remove();
    if (this.selected < 0) return;
    const svg = draw("svg", { width: 70, height: this.spine.scrollHeight });
    const reads = this.data.launches[this.selected].reads.map(([, , from]) => from).filter((x) => x >= 0 && x !== this.selected);
    const edges = [...new Set(reads)].map((x) => [x, "#4477aa"]).concat([...new Set(this.readers[this.selected])].map((x) => [x, "#ee6677"]));
    for (const [other, stroke] of edges) {
      const [a, b] = [this.y[this.selected], this.y[other]];
      const bend = 66 - Math.min(60, 8 + Math.abs(a - b) / 8);
      svg.append(draw("path", { d: `M66 ${a} C${bend} ${a} ${bend} ${b} 66 ${b}`, fill: "none", stroke }));
    }
    this.spine.append(svg);
  }

  select(i) {
    this.selected = i;
    for (const button of this.spine.querySelectorAll("[data-launch]")) button.setAttribute("aria-current", button.dataset.launch === String(i));
    this.link();
    this.detail.replaceChildren(...this.about(i));
    this.detail.scrollTop = 0;
  }

  about(i) {
    const { data } = this;
    const launch = data.launches[i];
    const moved = launch.read + launch.written;
    const facts = [["computes", launch.about], ["module", launch.module || "-"], ["reads, writes", `${size(launch.read)}, ${size(launch.written)}`],
      ["operations", launch.flops.toLocaleString("en")]];
    if (launch.seconds !== undefined) {
      facts.push(["measured", `${time(launch.seconds)} (p10 ${time(launch.low)}, p90 ${time(launch.high)})`]);
      if (launch.seconds) facts.push(["rates", `${(moved / launch.seconds / 1e9).toFixed(1)} GB/s, ${(launch.flops / launch.seconds / 1e9).toFixed(1)} GFLOP/s`]);
    }
    if (launch.bound) facts.push(["predicted", `${time(launch.predicted)}, bound by ${launch.bound}`]);
    if (launch.kernel) facts.push(["kernel", Object.entries(launch.kernel).map(([k, v]) => `${k} ${v}`).join(", ")]);
    const parts = [make("h2", {}, launch.title), table(["", ""], facts)];
    for (const group of launch.groups) {
      if (launch.groups.length > 1) parts.push(make("h2", {}, group.line));
      parts.push(table(["node", "op", "type", "where"], group.nodes.map(([name, op, type, where, , inlined]) => [name, inlined ? `${op} (on load)` : op, type, where])));
      if (group.nodes.length > 1) parts.push(this.graph(group.nodes));
    }
    const reads = launch.reads.map(([name, type, from]) => [name, type, from >= 0 ? this.jump(from) : "the caller or the state"]);
    parts.push(make("h2", {}, "reads"), table(["buffer", "type", "from"], reads));
    parts.push(make("h2", {}, "writes"), table(["buffer", "type"], launch.writes));
    const names = new Set(launch.groups.flatMap((g) => g.nodes.map(([name]) => name)));
    const labels = new Set(launch.groups.map((g) => g.label));
    const verdicts = data.decisions.filter(([, node, other]) => names.has(node) || labels.has(other));
    const line = ([, , , taken, , text]) => make("li", { className: taken ? "yes" : "no" }, text);
    parts.push(make("h2", {}, "verdicts"), make("ul", { className: "verdicts" }, ...verdicts.map(line)));
    parts.push(make("h2", {}, "source"), painted(data.language, data.sources[launch.source]));
    return parts;
  }

  jump(i) {
    return make("button", { onclick: () => this.select(i) }, this.data.launches[i].title);
  }

  /** The nodes of a group in layers, by the longest way to each. */
  graph(nodes) {
    const layer = new Map();
    for (const [name, , , , , , reads] of nodes) layer.set(name, 1 + Math.max(-1, ...reads.map((x) => layer.get(x) ?? -1)));
    const at = new Map(), filled = [];
    for (const [name] of nodes) {
      const y = layer.get(name);
      filled[y] = (filled[y] ?? 0) + 1;
      at.set(name, [10 + (filled[y] - 1) * 130, 16 + y * 40]);
    }
    const svg = draw("svg", { width: 20 + 130 * Math.max(...filled.map((n) => n ?? 0)), height: 40 * filled.length + 8 });
    for (const [name, , , , , , reads] of nodes) {
      const [x, y] = at.get(name);
      for (const from of reads) if (at.has(from)) svg.append(draw("line", { x1: at.get(from)[0] + 50, y1: at.get(from)[1] + 6, x2: x + 50, y2: y - 12, stroke: "#999" }));
      svg.append(draw("text", { x, y }, name.length > 20 ? `${name.slice(0, 19)}…` : name));
    }
    return make("details", { open: nodes.length < 40 }, make("summary", {}, `${nodes.length} nodes`), svg);
  }

  search(text) {
    const found = [];
    if (text) {
      this.data.launches.forEach((launch, i) => {
        const names = launch.groups.flatMap((g) => g.nodes.map(([name, op, , where]) => `${name} ${op} ${where}`));
        const hit = [launch.title, ...names, ...launch.reads.map(([name]) => name)].find((x) => x.toLowerCase().includes(text));
        if (hit !== undefined && found.length < 30) found.push([i, hit]);
      });
    }
    const open = (i) => {
      this.show("Launches");
      this.folded.clear();
      this.fill();
      this.select(i);
      this.spine.querySelector(`[data-launch="${i}"]`).scrollIntoView({ block: "center" });
      byId("found").replaceChildren();
    };
    byId("found").replaceChildren(...found.map(([i, hit]) => make("li", {}, make("button", { onclick: () => open(i) }, `${hit} in ${this.data.launches[i].title}`))));
  }

  // --- other tabs -----------------------------------------------------------------------------------------------------

  page(...children) {
    return make("div", { className: "page" }, ...children);
  }

  /** From the bytes of the plan without fusion to those of the plan: what each stage saves, or costs. */
  ablation() {
    const { ledger, decisions } = this.data;
    const stages = new Map(Object.entries(ledger.passes).map(([name, saved]) => [name, [saved, "pass"]]));
    for (const [stage, , , taken, saved] of decisions) {
      if (!taken || (!saved && !stages.has(stage))) continue;
      const [sum, count] = stages.get(stage) ?? [0, 0];
      stages.set(stage, [sum + saved, count === "pass" ? count : count + 1]);
    }
    let left = ledger.unfused;
    const most = Math.max(ledger.unfused, 1);
    const bar = (from, to, fill) => {
      const svg = draw("svg", { width: 410, height: 12 });
      svg.append(draw("rect", { x: (400 * Math.min(from, to)) / most, width: Math.max(1, (400 * Math.abs(from - to)) / most), height: 10, fill }));
      return svg;
    };
    const rows = [["without fusion", "", size(left), bar(0, left, "#999")]];
    for (const [name, [saved, count]] of stages) {
      rows.push([name, count, size(-saved), bar(left, left - saved, saved < 0 ? "#ee6677" : "#4477aa")]);
      left -= saved;
    }
    rows.push(["the plan", "", size(ledger.fused), bar(0, ledger.fused, "#999")]);
    return this.page(make("h2", {}, "Bytes that each stage saves; red where it costs"), table(["stage", "decisions", "bytes", ""], rows, [1, 2]));
  }

  roofline() {
    const { device, launches } = this.data;
    if (device === null) return this.page(make("p", {}, "Nothing is known of the machine."));
    const [name, gbs, gflops, half, measured] = device;
    const points = launches.map((x, i) => ({ i, x: x.flops / (x.read + x.written), seconds: x.seconds ?? x.predicted, ...x })).filter((p) => p.x > 0 && p.seconds > 0)
      .map((p) => ({ ...p, y: p.flops / p.seconds / 1e9 }));
    const [w, h, left, top] = [900, 480, 60, 10];
    const peaks = [...new Set([gflops, half])];
    const xs = [...points.map((p) => p.x), ...peaks.map((p) => p / gbs)], ys = [...points.map((p) => p.y), ...peaks];
    const range = (all) => [Math.log10(Math.min(...all)) - 0.2, Math.log10(Math.max(...all)) + 0.2];
    const [x0, x1] = range(xs), [y0, y1] = range(ys);
    const px = (v) => left + ((Math.log10(v) - x0) / (x1 - x0)) * w, py = (v) => top + h - ((Math.log10(v) - y0) / (y1 - y0)) * h;
    const svg = draw("svg", { width: w + left + 20, height: h + 50 });
    for (let e = Math.ceil(x0); e <= x1; e++) svg.append(draw("text", { x: px(10 ** e), y: h + top + 20 }, 10 ** e));
    for (let e = Math.ceil(y0); e <= y1; e++) svg.append(draw("text", { x: 5, y: py(10 ** e) }, 10 ** e));
    const start = Math.max(10 ** x0, 10 ** y0 / gbs);
    for (const peak of peaks) {
      const corners = [[start, start * gbs], [peak / gbs, peak], [10 ** x1, peak]];
      svg.append(draw("polyline", { points: corners.map(([x, y]) => `${px(x)},${py(y)}`).join(" "), fill: "none", stroke: "#000" }));
    }
    for (const p of points) {
      const dot = draw("circle", { cx: px(p.x), cy: py(p.y), r: 4, fill: { fwd: "#4477aa", bwd: "#ee6677", opt: "#228833" }[p.phase], "fill-opacity": 0.7 });
      dot.append(draw("title", {}, `${p.title}: ${p.x.toFixed(2)} operations a byte, ${p.y.toFixed(1)} GFLOP/s`));
      dot.onclick = () => (this.show("Launches"), this.select(p.i));
      svg.append(dot);
    }
    svg.append(draw("text", { x: w / 2, y: h + top + 36 }, "operations a byte"));
    const how = launches[0]?.seconds === undefined ? "predicted" : "measured";
    return this.page(make("p", {}, `Times are ${how}. ${name}: ${gbs.toFixed(0)} GB/s, ${gflops.toFixed(0)} GFLOP/s in float32${half === gflops ? "" : `, ${half.toFixed(0)} in halves`}, ${measured ? "as seen here" : "by its data sheet"}.`), svg);
  }

  memory() {
    const { arena, launches } = this.data;
    const [w, h] = [1000, 500];
    const svg = draw("svg", { width: w + 20, height: h + 20 });
    const px = (i) => (i / Math.max(launches.length, 1)) * w, py = (b) => (b / Math.max(arena.size, 1)) * h;
    for (const [name, type, at, bytes, first, last, alias] of arena.slots) {
      const box = draw("rect", { x: px(first), y: py(at), width: Math.max(1, px(last + 1) - px(first)), height: Math.max(1, py(bytes)), fill: alias ? "#ccbb44" : "#4477aa", "fill-opacity": 0.6, stroke: "#fff", "stroke-width": 0.5 });
      box.append(draw("title", {}, `${name} ${type}: ${size(bytes)} at ${at}, launches ${first} to ${last}${alias ? `, in place of ${alias}` : ""}`));
      box.onclick = () => (this.show("Launches"), this.select(first));
      svg.append(box);
    }
    const head = `Arena ${size(arena.size)}; allocated apart ${size(arena.separate)}; live at most ${size(arena.least)}. Launches run to the right, addresses down; yellow lies in place of what nobody needs any more.`;
    return this.page(make("p", {}, head), svg);
  }

  ir() {
    const kinds = { "+": "added", "-": "removed", "@": "hunk" };
    return this.page(...this.data.passes.map(([name, count, lines], i) => {
      const about = i === 0 ? "as it was built" : lines.length ? `${lines.filter((x) => x[0] === "+").length} lines come, ${lines.filter((x) => x[0] === "-").length} go` : "nothing changes";
      const details = make("details", { className: "pass" }, make("summary", {}, `${name}: ${count} nodes, ${about}`));
      details.ontoggle = () => {
        if (details.children.length > 1) return;
        details.append(make("pre", {}, ...lines.map((x) => make("span", { className: kinds[x[0]] ?? "" }, `${x}\n`))));
      };
      return details;
    }));
  }

  compiling() {
    const { all, ...stages } = this.data.compiling;
    const rest = all - Object.values(stages).reduce((a, b) => a + b, 0);
    const rows = Object.entries(stages).map(([name, s]) => [name, time(s)]);
    if (rest > 0) rows.push(["the target's code", time(rest)]);
    return this.page(table(["stage", "time"], [...rows, ["in all", time(all)]], [1]));
  }
}

async function unpack() {
  const packed = Uint8Array.from(atob(byId("data").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  new Report(await new Response(stream).json()).start();
}

unpack();
