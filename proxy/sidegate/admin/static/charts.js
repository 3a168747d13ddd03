// Charts: stacked bars and lines over time, with axes, gaps, marks, and values on hover and by arrow keys.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const BARS = 60;
const LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 22;

function shape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

const clock = (s, seconds = true) =>
  new Date(s * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined });

// Groups seconds into BARS slots of `range / BARS` seconds. A slot without a second is a gap (null).
function slotsOf(seconds, range) {
  const step = range / BARS;
  const newest = seconds.length ? seconds[seconds.length - 1].time : Date.now() / 1000;
  const first = (Math.floor(newest / step) - BARS + 1) * step;
  const slots = Array.from({ length: BARS }, () => null);
  for (const second of seconds) {
    const index = Math.floor((second.time - first) / step);
    if (index >= 0 && index < BARS) (slots[index] ||= []).push(second);
  }
  // A tick may come a few milliseconds late and leave a slot of one second empty: that is no gap.
  for (let index = 1; index < BARS - 1; index += 1)
    if (!slots[index] && slots[index - 1] && slots[index + 1] && step <= 1) slots[index] = slots[index - 1];
  return { slots, first, step };
}

// The smallest of 1, 2, 5 times a power of ten that is not below `value`.
function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((top) => top >= value * 0.999);
}

class Chart {
  // `series`: [{ name, kind }]; `read(slot)` returns one value per series, or null for no value.
  constructor(svg, readout, { series, stacked, read, format }) {
    Object.assign(this, { svg, readout, series, stacked, read, format, selected: null });
    svg.addEventListener("pointermove", (event) => this.select(this.slotAt(event)));
    svg.addEventListener("pointerleave", () => this.select(null));
    svg.addEventListener("blur", () => this.select(null));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      this.select(Math.min(BARS - 1, Math.max(0, (this.selected ?? BARS) + move)));
    });
  }

  draw(grouped, marks) {
    Object.assign(this, grouped);
    this.marks = marks;
    this.width = Math.max(240, this.svg.clientWidth);
    this.height = this.svg.clientHeight || 180;
    this.values = this.slots.map((slot) => slot && this.read(slot));
    const sums = this.values.map((each) => each && (this.stacked ? each.reduce((a, b) => a + (b || 0), 0) : Math.max(...each.map((v) => v || 0))));
    this.top = niceTop(Math.max(...sums.map((each) => each || 0)));
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren(...this.axes(), ...this.gaps(), ...(this.stacked ? this.bars() : this.lines()), ...this.markLines(), ...this.cursor());
    if (this.selected !== null) this.show();
    const newest = this.values.findLast((each) => each);
    this.svg.setAttribute("aria-label", `${this.series.map(({ name }, i) => `${name} ${this.format(newest ? newest[i] : null)}`).join(", ")}; arrow keys read other times.`);
  }

  x(index) { return LEFT + (index / BARS) * (this.width - LEFT - RIGHT); }
  y(value) { return this.height - BOTTOM - (value / this.top) * (this.height - TOP - BOTTOM); }

  axes() {
    const parts = [0, this.top / 2, this.top].flatMap((value) => [
      shape("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(value), y2: this.y(value) }),
      shape("text", { class: "tick", x: LEFT - 6, y: this.y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(3)).toLocaleString("en")),
    ]);
    const every = this.width < 420 ? 30 : 15;
    for (let index = 0; index <= BARS; index += every) {
      const anchor = index === 0 ? "start" : index === BARS ? "end" : "middle";
      parts.push(shape("text", { class: "tick", x: this.x(index), y: this.height - 5, "text-anchor": anchor }, clock(this.first + index * this.step, this.step < 15)));
    }
    return parts;
  }

  gaps() {
    return this.slots.flatMap((slot, index) => slot ? [] : [
      shape("rect", { class: "gap", x: this.x(index), y: TOP, width: this.x(1) - this.x(0), height: this.height - TOP - BOTTOM })]);
  }

  bars() {
    const width = Math.max(1, this.x(1) - this.x(0) - 1);
    return this.values.flatMap((each, index) => {
      let below = 0;
      return (each || []).flatMap((value, place) => {
        if (!value) return [];
        const bar = shape("rect", { class: this.series[place].kind, x: this.x(index), width, y: this.y(below + value), height: this.y(below) - this.y(below + value) });
        below += value;
        return [bar];
      });
    });
  }

  lines() {
    return this.series.flatMap(({ kind }, place) => {
      const runs = [[]];
      this.values.forEach((each, index) => {
        if (each && each[place] !== null) runs[runs.length - 1].push([this.x(index + 0.5), this.y(each[place])]);
        else if (runs[runs.length - 1].length) runs.push([]);
      });
      return runs.filter((run) => run.length).map((run) => {
        if (run.length === 1) run.push([run[0][0] + 1, run[0][1]]); // one point alone is no line
        return shape("polyline", { class: kind, points: run.map((point) => point.join(",")).join(" ") });
      });
    });
  }

  markLines() {
    return this.marks.flatMap((mark) => {
      const index = (Date.parse(mark.time) / 1000 - this.first) / this.step;
      if (index < 0 || index > BARS) return [];
      const line = shape("line", { class: "mark", x1: this.x(index), x2: this.x(index), y1: TOP, y2: this.height - BOTTOM });
      line.append(shape("title", {}, `${clock(Date.parse(mark.time) / 1000)} ${mark.text}`));
      return [line];
    });
  }

  cursor() {
    if (this.selected === null) return [];
    return [shape("line", { class: "cursor", x1: this.x(this.selected + 0.5), x2: this.x(this.selected + 0.5), y1: TOP, y2: this.height - BOTTOM })];
  }

  slotAt(event) {
    const box = this.svg.getBoundingClientRect();
    const index = Math.floor((((event.clientX - box.left) / box.width) * this.width - LEFT) / (this.x(1) - this.x(0)));
    return index >= 0 && index < BARS ? index : null;
  }

  select(index) {
    if (!this.values || index === this.selected) return;
    this.selected = index;
    this.svg.querySelector(".cursor")?.remove();
    this.svg.append(...this.cursor());
    this.show();
  }

  show() {
    if (this.selected === null) {
      this.readout.textContent = "";
      return;
    }
    const from = this.first + this.selected * this.step, values = this.values[this.selected];
    const events = this.marks.filter((mark) => {
      const time = Date.parse(mark.time) / 1000;
      return time >= from && time < from + this.step;
    });
    const words = values ? this.series.map(({ name }, place) => `${name} ${this.format(values[place])}`).join(" · ") : "no data";
    this.readout.textContent = [clock(from), words, ...events.map((mark) => mark.text)].join(" · ");
  }
}
