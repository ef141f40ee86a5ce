// The table of prompts: sort, filter, open. Texts of a run are set as text, never as HTML.
"use strict";
const {prompts, images} = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : Number.isInteger(value) ? String(value) : value.toFixed(digits);
const group = (letter, value) => (value === null ? "–" : letter + value);
const several = new Set(prompts.map((prompt) => prompt.run)).size > 1;

// Title, value to sort by, text, class, explanation.
const COLUMNS = [
  ["prompt", (p) => p.name, null, "text"],
  ...(several ? [["run", (p) => p.run, null, "text wide"]] : []),
  ["chosen as", (p) => p.kinds.join(", "), null, "text wide"],
  ["step", (p) => p.step, (p) => number(p.step), "wide"],
  ["pass rate", (p) => p.passed, (p) => number(p.passed), "", "Pass rate in this step"],
  ["run mean", (p) => p.mean_passed, (p) => number(p.mean_passed), "", "Mean pass rate over the run"],
  ["weight, grpo", (p) => p.weight_grpo, (p) => number(p.weight_grpo), "wide"],
  ["weight, durian", (p) => p.weight_durian, (p) => number(p.weight_durian), "wide"],
  ["change", (p) => p.change, (p) => number(p.change) + (p.change === null ? "" : " ×"), ""],
  ["entropy, nats", (p) => p.visual_entropy, (p) => number(p.visual_entropy, 3), "wide"],
  ["S", (p) => p.perceptual_group, (p) => group("S", p.perceptual_group), "",
    "Group by visual entropy, S1 the lowest"],
  ["confidence", (p) => p.confidence, (p) => number(p.confidence, 3), "wide"],
  ["M", (p) => p.reasoning_group, (p) => group("M", p.reasoning_group), "",
    "Group by confidence, M1 the lowest"],
];
let sorted = {column: null, ascending: false};

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // unknown values last
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
  return sorted.ascending ? order : -order;
}

function picture(prompt) {
  return images[prompt.image] ? element("img", {src: images[prompt.image], alt: ""}) : null;
}

function row(prompt) {
  const cells = COLUMNS.map(([, value, text, style], at) => {
    if (at > 0) return element("td", {className: style}, text ? text(prompt) : value(prompt));
    return element("td", {className: style}, picture(prompt), element("button", {type: "button"}, prompt.name));
  });
  return element("tr", {onclick: () => open(prompt)}, ...cells);
}

function show() {
  const [kind, run] = ["kind", "table-run"].map((id) => find(id)?.value);
  const words = find("search").value.toLowerCase();
  const shown = prompts.filter((prompt) =>
    (!kind || prompt.kinds.includes(kind)) && (!run || prompt.run === run) &&
    (!words || [prompt.name, prompt.question, prompt.truth, ...prompt.answers].join("\n").toLowerCase().includes(words)));
  if (sorted.column) shown.sort((a, b) => compare(sorted.column[1](a), sorted.column[1](b)));
  const head = COLUMNS.map((column) => {
    const title = element("th", {className: column[3], scope: "col", title: column[4] ?? ""},
      element("button", {type: "button", onclick: () => sort(column)}, column[0]));
    if (sorted.column === column) title.ariaSort = sorted.ascending ? "ascending" : "descending";
    return title;
  });
  find("prompts").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...shown.map(row))));
  find("count").textContent = `${shown.length} of ${prompts.length} prompts`;
}

function sort(column) {
  sorted = {column, ascending: sorted.column === column ? !sorted.ascending : true};
  show();
  find("prompts").querySelector("th[aria-sort] button").focus();
}

function facts(pairs) {
  return element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function open(prompt) {
  const terms = ["original", "perceptual", "reasoning"].map((name) =>
    prompt.weights?.[name] === undefined ? `${name} term` : `${name} term × ${prompt.weights[name]}`);
  const head = ["rollout", "reward", "accuracy", "tokens", ...terms,
    "advantage, grpo", "advantage, durian", "advantage, trained"];
  const answered = prompt.answers.some((answer) => answer);
  const rollouts = element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((title) => element("th", {scope: "col"}, title)))),
    element("tbody", {}, ...prompt.rollouts.map((values) =>
      element("tr", {}, ...values.map((value) => element("td", {}, number(value)))))));
  const image = picture(prompt);
  if (image) image.alt = "image of the prompt";
  find("detail").replaceChildren(
    element("form", {method: "dialog"}, element("button", {}, "Close")),
    element("h3", {}, `Prompt ${prompt.name}, step ${prompt.step}` + (several ? `, ${prompt.run}` : "")),
    element("div", {className: "both"},
      image && element("div", {}, image),
      element("div", {},
        element("p", {className: "long"}, prompt.question || "The question is not known."),
        facts([
          ["ground truth", prompt.truth || "–"],
          ["chosen as", prompt.kinds.join(", ")],
          ["pass rates", `mean ${number(prompt.mean_passed)}; ` +
            prompt.history.map(([step, passed]) => `step ${step}: ${number(passed)}`).join(", ")],
          ["weight", `${number(prompt.weight_grpo)} under grpo, ${number(prompt.weight_durian)} under durian`],
          ["visual entropy", `${number(prompt.visual_entropy, 3)} nats, group ${group("S", prompt.perceptual_group)}`],
          ["confidence", `${number(prompt.confidence, 3)} ${prompt.unit}, group ${group("M", prompt.reasoning_group)}`],
          ["std", `own ${number(prompt.std_original, 3)}, perceptual ${number(prompt.std_perceptual, 3)}, ` +
            `reasoning ${number(prompt.std_reasoning, 3)}`],
        ]))),
    element("div", {className: "scroll"}, rollouts),
    answered ? facts(prompt.answers.map((answer, at) =>
      [`rollout ${prompt.rollouts[at][0]}`, element("div", {className: "long"}, answer || "–")]))
      : element("p", {className: "soft"}, "No answers: algorithm.durian.record_texts=true records them."));
  find("detail").showModal();
}

function showRun() {
  for (const part of document.querySelectorAll(".run")) part.hidden = part.dataset.run !== find("run").value;
}
if (find("run")) {
  find("run").addEventListener("change", showRun);
  showRun();
}
if (find("prompts")) {
  for (const id of ["kind", "table-run"]) find(id)?.addEventListener("change", show);
  find("search").addEventListener("input", show);
  find("detail").addEventListener("click", (event) => { if (event.target === find("detail")) find("detail").close(); });
  show();
}
