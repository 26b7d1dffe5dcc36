"use strict";
// The page's data: {run, labels: {NAME: [label]}, texts: [text], items: [...]}; see pages/review.py.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = data.items;
  const digits = 9;
  const words = { accept: "accepted", correct: "corrected", reject: "rejected" };
  const head = ["run", "task", "source_row", "report_id", "column", "start", "end", "answer", "decision", "correction",
    "reviewer", "time"];
  const people = new Map(); // by initials: what they decided
  let decided = new Map(); // by an item's key: {decision, correction, time}
  let past = []; // for undo: [index of the item, what it was decided before]
  let at = 0;
  let unsaved = false;

  const $ = (id) => document.getElementById(id);
  const key = (item) => [item.task, item.row, item.column, item.start ?? "", item.end ?? ""].join("/");
  const decision = (item) => decided.get(key(item));
  const say = (text) => { $("said").textContent = text; };
  const percent = (p) => `${(100 * p).toFixed(1)} %`;

  function element(name, attributes, ...inside) {
    const made = document.createElement(name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    made.append(...inside);
    return made;
  }

  // ---- what is shown

  function show() {
    const item = items[at];
    $("place").textContent = `${at + 1} of ${items.length}: ${item.title}, report ${item.id ?? "without id"} (row ${item.row})`;
    $("report").replaceChildren(...item.blocks.flatMap(([name, text], i) => [
      ...(item.blocks.length > 1 ? [element("h3", {}, name)] : []),
      element("p", { class: "text" }, ...marked(data.texts[text], i ? [] : marks(item))),
    ]));
    $("report").querySelector("mark.main")?.scrollIntoView({ block: "nearest" });
    const sure = item.confidence === null ? "" : `, confidence ${percent(item.confidence)}`;
    const quoted = item.start === null ? "" : `\u201c${points(item).slice(item.start, item.end).join("")}\u201d: `;
    $("model").replaceChildren(`The model says ${quoted}`, element("strong", {}, said(item)), sure);
    $("other").textContent = item.other === null ? "" : `The other run says ${item.other || "no span"}.`;
    $("note").textContent = item.note;
    showCorrections(item);
    showDecision(item);
  }

  const said = (item) => item.answer || "no span";
  const points = (item) => Array.from(data.texts[item.blocks[0][1]]); // offsets count code points

  // The item's own marks, and fainter those of the other spans of its row.
  function marks(item) {
    const own = item.marks.map(([start, end]) => [start, end, item.start === null ? "named" : "main"]);
    const near = items.filter((other) => other !== item && other.task === item.task && other.row === item.row)
      .flatMap((other) => (other.start === null ? [] : [[other.start, other.end, "near"]]));
    return [...own, ...near].sort((a, b) => a[0] - b[0]);
  }

  function marked(text, spans) {
    const all = Array.from(text);
    const parts = [];
    let done = 0;
    for (const [start, end, kind] of spans) {
      if (start < done) continue;
      parts.push(all.slice(done, start).join(""), element("mark", { class: kind }, all.slice(start, end).join("")));
      done = end;
    }
    return [...parts, all.slice(done).join("")];
  }

  function showCorrections(item) {
    const listed = shortcuts(item);
    const known = new Map(item.alternatives);
    const buttons = listed.map((label, i) => {
      const p = known.get(label);
      const shown = element("button", { "aria-keyshortcuts": String(i + 1), "data-label": label },
        element("kbd", { "aria-hidden": "true" }, String(i + 1)), label,
        ...(p === undefined ? [] : [element("span", {}, percent(p))]));
      shown.addEventListener("click", () => decide("correct", label));
      return shown;
    });
    $("correct").replaceChildren(...buttons, ...longForm(item, listed));
    $("correct").hidden = !$("correct").childElementCount;
  }

  // The labels that have a number: all of a short list; of a long one the model's own alternatives.
  function shortcuts(item) {
    const labels = data.labels[item.labels] ?? [];
    return labels.length <= digits ? labels : item.alternatives.map(([label]) => label).slice(0, digits);
  }

  // The rest of a long list as a menu, or a field for words.
  function longForm(item, listed) {
    const labels = data.labels[item.labels] ?? [];
    if (item.labels !== null && labels.length === listed.length) return [];
    const field = item.labels === null
      ? element("textarea", { "aria-label": "Correct answer in words", spellcheck: "true" })
      : element("select", { "aria-label": "Any label" }, element("option", { value: "" }, "Any label \u2026"),
        ...labels.map((label) => element("option", { value: label }, label)));
    if (item.labels === null) field.value = decision(item)?.correction || item.answer;
    const button = element("button", {}, "Correct to this");
    const take = () => (field.value.trim() ? decide("correct", field.value.trim()) : say("There is no correction yet."));
    button.addEventListener("click", take);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (item.labels !== null || event.ctrlKey)) {
        event.preventDefault();
        take();
      }
    });
    return [field, button];
  }

  function showDecision(item) {
    const made = decision(item);
    $("now").textContent = made ? `Decided: ${told(made)}.` : "Not decided yet.";
    $("accept").setAttribute("aria-pressed", String(made?.decision === "accept"));
    $("reject").setAttribute("aria-pressed", String(made?.decision === "reject"));
    for (const button of $("correct").querySelectorAll("[data-label]")) {
      button.setAttribute("aria-pressed", String(made?.correction === button.dataset.label));
    }
    const count = items.filter(decision).length;
    $("done").textContent = `${count} of ${items.length} decided`;
    $("progress").max = items.length;
    $("progress").value = count;
  }

  const told = (made) => words[made.decision] + (made.correction ? ` to ${made.correction}` : "");

  // ---- what is done

  function go(index) {
    at = (index + items.length) % items.length;
    show();
    $("place").focus();
  }

  function decide(word, correction = "") {
    if (!initials()) return askInitials();
    const item = items[at];
    const made = correction === item.answer && word === "correct"
      ? { decision: "accept", correction: "" } : { decision: word, correction };
    past.push([at, decision(item)]);
    decided.set(key(item), { ...made, time: new Date().toISOString() });
    changed();
    const left = items.filter((other) => !decision(other)).length;
    say(`${said(item)}: ${told(made)}. ${left ? `${left} left.` : "All are decided; save them."}`);
    const after = [...items.keys()].map((i) => (at + 1 + i) % items.length).find((i) => !decision(items[i]));
    go(after ?? at);
  }

  function undo() {
    const last = past.pop();
    if (!last) return say("There is nothing to undo.");
    const [index, before] = last;
    if (before) decided.set(key(items[index]), before);
    else decided.delete(key(items[index]));
    changed();
    say(`Undone: ${said(items[index])} is ${before ? told(before) : "not decided"}.`);
    go(index);
  }

  function save() {
    if (!initials()) return askInitials();
    const made = items.filter(decision).map((item) => {
      const { decision: word, correction, time } = decision(item);
      return [data.run, item.task, item.row, item.id, item.column, item.start, item.end,
        item.labels === null ? "" : item.answer, word, correction, initials(), time];
    });
    const csv = [head, ...made].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
    const link = element("a", { download: `decisions-${initials().replace(/\W/g, "_")}.csv` });
    link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
    say(`${made.length} decision${made.length === 1 ? "" : "s"} saved to ${link.download}, among your downloads.`);
  }

  // A cell that a spreadsheet would take for a formula begins with an apostrophe.
  function cell(value) {
    const text = String(value ?? "");
    const safe = /^[\s\x00-\x1F]*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/.test(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  }

  function corrections() {
    const first = $("correct").querySelector("select, textarea") ?? $("correct").querySelector("button");
    if (first) first.focus();
    else say("There is no other answer to choose; accept or reject it.");
  }

  // ---- who decides, and what is kept of it: never a text

  const initials = () => $("initials").value.trim();
  const store = () => `radlite-review ${data.run} ${initials()}`;

  function askInitials() {
    say("Type your initials first, and press Enter.");
    $("initials").focus();
  }

  // Everybody has decisions of their own, and takes up those that this browser kept.
  function enter() {
    if (!initials()) return askInitials();
    past = [];
    decided = people.get(initials()) ?? new Map();
    people.set(initials(), decided);
    const kept = recall();
    for (const item of items) {
      const made = kept[key(item)];
      if (made && made.decision in words && !decision(item)) decided.set(key(item), made);
    }
    say(decided.size ? `${decided.size} earlier decisions were taken up.` : "");
    go(Math.max(0, items.findIndex((item) => !decision(item))));
  }

  function changed() {
    unsaved = true;
    const kept = recall(); // holds decisions on other selections of the run too
    for (const item of items) {
      const made = decision(item);
      if (made && (item.labels !== null || !made.correction)) kept[key(item)] = made;
      else delete kept[key(item)];
    }
    try {
      localStorage.setItem(store(), JSON.stringify(kept));
    } catch { /* a browser may keep nothing for local files */ }
  }

  function recall() {
    try {
      return JSON.parse(localStorage.getItem(store())) ?? {};
    } catch {
      return {};
    }
  }

  // ---- keys and buttons

  const keys = {
    a: () => decide("accept"), r: () => decide("reject"), c: corrections, u: undo, s: save, "?": () => $("keys").showModal(),
    j: () => go(at + 1), k: () => go(at - 1), ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1),
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") $("place").focus();
      return;
    }
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const label = /^[1-9]$/.test(name) ? shortcuts(items[at])[name - 1] : undefined;
    const act = label === undefined ? keys[name] : () => decide("correct", label);
    if (!act || !$("single").checked) return;
    event.preventDefault();
    act();
  }

  const buttons = { accept: keys.a, reject: keys.r, back: keys.k, next: keys.j, undo, save, help: keys["?"] };
  for (const [id, act] of Object.entries(buttons)) $(id).addEventListener("click", act);
  $("initials").addEventListener("change", enter);
  document.addEventListener("keydown", pressed);
  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  show();
  askInitials();
})();
