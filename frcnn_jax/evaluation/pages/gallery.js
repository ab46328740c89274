"use strict";
(() => {
  const PAGE = 48;
  const HIT = -1, IGNORED = -2;
  const data = JSON.parse(document.getElementById("gallery").textContent);
  const byId = (id) => document.getElementById(id);
  const [show, classes, score, scoreValue, count, cards, more] =
    ["show", "class", "score", "score-value", "count", "cards", "more"].map(byId);
  const lists = {
    worst: "worst first", best: "best first", missed: "missed objects", false: "false alarms",
    ...Object.fromEntries(data.kinds.map((kind) => [kind, "errors: " + data.meanings[kind]])), all: "all, by name",
  };
  let found = [], shown = 0;

  // What is seen of an image from a score on, of one class or of all (label 0).
  function look(image, label, least, kind) {
    const seen = { image, hits: [], errors: [], ignored: [], missed: [], top: -Infinity };
    for (const detection of image.detections) {
      const [its, value, outcome] = detection;
      if (value < least || (label && its !== label)) continue;
      if (outcome === HIT) seen.hits.push(detection);
      else if (outcome === IGNORED) seen.ignored.push(detection);
      else if (kind < 0 || kind === outcome) {
        seen.errors.push(detection);
        seen.top = Math.max(seen.top, value);
      }
    }
    for (const object of image.objects) {
      const [its, counted, by] = object;
      if (counted && (!label || its === label) && (by === null || by < least)) seen.missed.push(object);
    }
    const wrong = seen.errors.length + seen.missed.length;
    seen.f1 = 2 * seen.hits.length / Math.max(2 * seen.hits.length + wrong, 1);
    seen.wrong = wrong;
    return seen;
  }

  const order = {
    worst: [(s) => s.wrong > 0, (a, b) => a.f1 - b.f1 || b.wrong - a.wrong],
    best: [(s) => s.hits.length > 0, (a, b) => b.f1 - a.f1 || b.hits.length - a.hits.length],
    missed: [(s) => s.missed.length > 0, (a, b) => b.missed.length - a.missed.length],
    false: [(s) => s.errors.length > 0, (a, b) => b.top - a.top],
    all: [() => true, () => 0],
  };

  function element(name, attributes, ...children) {
    const svg = ["svg", "rect", "title"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const nameOf = (label) => data.classes[label - 1];
  const saying = ([label, value, outcome]) =>
    `${nameOf(label)} ${value.toFixed(2)}` + (outcome >= 0 ? `: ${data.meanings[data.kinds[outcome]]}` : "");

  function rectangle(kind, box, text) {
    const [x1, y1, x2, y2] = box;
    return element("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 }, element("title", {}, text));
  }

  function card(seen) {
    const { image } = seen, [width, height] = image.size;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
    for (const object of seen.missed) svg.append(rectangle("missed", object.slice(3), nameOf(object[0]) + ", missed"));
    for (const detection of seen.ignored) svg.append(rectangle("ignored", detection.slice(3), saying(detection)));
    for (const detection of seen.hits) svg.append(rectangle("hit", detection.slice(3), saying(detection)));
    for (const detection of seen.errors) svg.append(rectangle("error", detection.slice(3), saying(detection)));
    const picture = element("img", { loading: "lazy", src: image.thumbnail, alt: image.name });
    const frame = element("a", { class: "frame", href: image.file, style: `aspect-ratio: ${width} / ${height}` }, picture, svg);
    const lines = [`from score ${Number(score.value).toFixed(2)}: ${seen.hits.length} found, ${seen.errors.length} wrong, ${seen.missed.length} missed`];
    for (const detection of seen.errors.slice(0, 3)) lines.push(saying(detection));
    const missed = [...new Set(seen.missed.map((object) => nameOf(object[0])))];
    if (missed.length) lines.push("missed: " + missed.slice(0, 5).join(", "));
    const caption = element("figcaption", {}, element("b", {}, image.name));
    for (const line of lines) caption.append(element("br", {}), line);
    return element("figure", { class: "card" }, frame, caption);
  }

  function append() {
    const next = found.slice(shown, shown + PAGE);
    cards.append(...next.map(card));
    shown += next.length;
    more.hidden = shown >= found.length;
    more.textContent = `more (${found.length - shown})`;
  }

  function update() {
    const list = show.value, label = Number(classes.value), least = Number(score.value);
    const kind = data.kinds.indexOf(list);
    const [keep, compare] = order[kind < 0 ? list : "false"];
    found = data.images.map((image) => look(image, label, least, kind)).filter(keep).sort(compare);
    shown = 0;
    cards.replaceChildren();
    scoreValue.textContent = least.toFixed(2);
    count.textContent = `${found.length} ${found.length === 1 ? "image" : "images"}`;
    append();
  }

  function remember() {
    const state = new URLSearchParams({ show: show.value, class: nameOf(Number(classes.value)) ?? "", score: score.value });
    try {
      history.replaceState(null, "", "#" + state);
    } catch {
      // Some browsers keep no state of pages that are files.
    }
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (state.get("show") in lists) show.value = state.get("show");
    const label = data.classes.indexOf(state.get("class")) + 1;
    classes.value = String(label);
    if (state.get("score")) score.value = state.get("score");
    update();
  }

  for (const [value, text] of Object.entries(lists)) show.append(element("option", { value }, text));
  classes.append(element("option", { value: 0 }, "all"));
  data.classes.forEach((name, i) => classes.append(element("option", { value: i + 1 }, name)));
  Object.assign(score, { min: data.scores[0], max: data.scores[1], step: 0.01, value: data.score });
  for (const control of [show, classes, score]) control.addEventListener("input", () => { update(); remember(); });
  more.addEventListener("click", append);
  // Further cards come as one scrolls to the end.
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !more.hidden) append(); }).observe(more);
  addEventListener("hashchange", recall);
  recall();
})();
