// Small graphs of the last hour, minute by minute.

const SVG = document.querySelector("svg").namespaceURI;
const [WIDTH, HEIGHT, STEPS] = [120, 28, 60];

function drawn(tag, kind) {
  const made = document.createElementNS(SVG, tag);
  made.setAttribute("class", kind);
  return made;
}

// An empty graph with a path for each kind; `draw` gives their shapes, and words for those who do not see them.
function graph(parent, kinds) {
  const made = drawn("svg", "graph");
  made.setAttribute("viewBox", "0 0 " + WIDTH + " " + HEIGHT);
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("role", "img");
  const base = drawn("path", "base");
  base.setAttribute("d", "M0 " + HEIGHT + "H" + WIDTH);
  const paths = kinds.map((kind) => drawn("path", kind));
  made.append(base, ...paths);
  parent.append(made);
  made.style.display = "none";
  return (shapes, words) => {
    made.style.display = shapes ? "" : "none";
    if (!shapes) return;
    made.setAttribute("aria-label", words);
    shapes.forEach((shape, index) => paths[index].setAttribute("d", shape));
  };
}

const left = (index, count) => ((STEPS - count + index) * WIDTH) / STEPS;

// Bars from `from` up; the highest of `most` is as high as the graph.
function barsOf(values, most) {
  return values.map((value, index) => {
    if (value === 0) return "";
    const height = Math.max(1, (value / most) * HEIGHT);
    return "M" + left(index, values.length).toFixed(1) + " " + HEIGHT + "v-" + height.toFixed(1) + "h1.5v" + height.toFixed(1) + "z";
  }).join("");
}

// A line that is broken where there is nothing.
function lineOf(values, most) {
  let [shape, joined] = ["", false];
  values.forEach((value, index) => {
    if (value !== null) {
      const y = HEIGHT - Math.min(1, value / most) * (HEIGHT - 1);
      const x = left(index, values.length) + 1;
      shape += (joined ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1) + (joined ? "" : "h.6");
    }
    joined = value !== null;
  });
  return shape;
}

function trafficGraph(parent) {
  const draw = graph(parent, ["bars", "fails"]);
  return (history) => {
    const most = history ? Math.max(...history.requests) : 0;
    if (most === 0) return draw(null);
    const failed = history.errors.reduce((sum, count) => sum + count, 0);
    draw([barsOf(history.requests, most), barsOf(history.errors, most)],
      "Requests in each minute of the last hour: at most " + grouped(most) + ", " + counted(failed, "error") + " in all");
  };
}

function latencyGraph(parent) {
  const draw = graph(parent, ["p99", "p50"]);
  return (history) => {
    const known = history ? history.p99_ms.filter((value) => value !== null) : [];
    if (known.length === 0) return draw(null);
    const most = Math.max(1, ...known);
    draw([lineOf(history.p99_ms, most), lineOf(history.p50_ms, most)],
      "Latency in each minute of the last hour: p99 at most " + milliseconds(most));
  };
}
