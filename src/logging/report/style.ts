// SPDX-License-Identifier: Apache-2.0
/** The report's style sheet: light and dark by the reader's preference, one column on a phone. */

export const STYLE = `
:root { color-scheme: light dark;
  --paper: #fbfaf8; --card: #fff; --ink: #1d1c1a; --soft: #6b6862; --rule: #e4e1db; --grid: #eceae5; --accent: #2f6fde;
  --good: #1a7f4b; --warn: #a35b00; --bad: #c0392b;
  --cold: #f3f1ec; --hot: #9a2f06; --cold-ink: #000; --hot-ink: #fff;
  --c0: #2f6fde; --c1: #d9730d; --c2: #12906f; --c3: #b3378d; --c4: #7656d6; --c5: #8a7a00; --c6: #0b8ea6; --c7: #c0392b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #131417; --card: #1b1d21; --ink: #e8e6e1; --soft: #9a978f; --rule: #2d3036; --grid: #272a2f; --accent: #7aa7ff;
  --good: #5dca8f; --warn: #f0a94a; --bad: #ff7b6e;
  --cold: #1f2125; --hot: #ff8f33; --cold-ink: #fff; --hot-ink: #000;
  --c0: #7aa7ff; --c1: #f5a65b; --c2: #4fd0ab; --c3: #ee8ccd; --c4: #b09cff; --c5: #d8c64a; --c6: #55cfe4; --c7: #ff8a7d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 40px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 18px 0 6px; }
header p, .note { margin: 0; color: var(--soft); }
header p { flex-basis: 100%; overflow-wrap: anywhere; }
.note { margin-bottom: 12px; max-width: 75ch; } .note.below { margin-top: 8px; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.87em; }
.status { font-size: 13px; font-weight: 600; padding: 1px 10px; border-radius: 99px; border: 1px solid currentColor; color: var(--soft); }
.status.finished { color: var(--good); } .status.interrupted, .status.running { color: var(--warn); } .status.failed { color: var(--bad); }
.error { border-left: 3px solid var(--bad); padding: 6px 12px; margin: 14px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 10px; margin: 22px 0 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 10px 14px 12px; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.tile b { display: block; font-size: 23px; font-weight: 600; line-height: 1.25; letter-spacing: -0.01em; overflow-wrap: anywhere; }
.tile small { color: var(--soft); font-size: 12.5px; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; margin-top: 12px; }
.chart { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 16px 14px; min-width: 0; display: flex; flex-direction: column; }
.chart.wide { grid-column: 1 / -1; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; }
figcaption > span { color: var(--soft); font-size: 13px; }
.legend { margin-left: auto; display: flex; flex-wrap: wrap; gap: 0 14px; }
.legend em { font-style: normal; color: var(--ink); display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend em::before, .key::before { content: ""; width: 14px; height: 3px; border-radius: 2px; background: var(--c); flex: none; }
.key::before { display: inline-block; vertical-align: middle; margin-right: 8px; }
.plot { position: relative; flex: 1 0 170px; margin: 14px 4px 22px 52px; outline-offset: 6px; touch-action: pan-y; }
.wide .plot { flex-basis: 290px; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; }
.plot .grid { stroke: var(--grid); stroke-width: 1; }
.plot .line { stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.plot .pale { stroke-width: 1.2; opacity: 0.35; }
.plot .dot { stroke: var(--c); stroke-width: 7; stroke-linecap: round; }
.plot i { position: absolute; font-style: normal; font-size: 12px; line-height: 16px; color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums; }
.plot i.y { right: 100%; margin-right: 8px; transform: translateY(-50%); }
.plot i.x { top: 100%; margin-top: 5px; transform: translateX(-50%); }
.plot i.axis { top: 100%; right: 100%; margin: 5px 8px 0 0; }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--soft); opacity: 0.6; pointer-events: none; }
.tip { position: absolute; top: 0; z-index: 1; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 5px 10px;
  font-size: 13px; pointer-events: none; white-space: nowrap; box-shadow: 0 4px 14px rgb(0 0 0 / 0.14); font-variant-numeric: tabular-nums; }
.tip div { display: flex; align-items: center; gap: 7px; }
.tip div::before { content: ""; width: 10px; height: 3px; border-radius: 2px; background: var(--c); }
${Array.from({ length: 8 }, (_, i) => `.c${i} { --c: var(--c${i}); }`).join(' ')}
.heat { display: flex; flex-wrap: wrap; gap: 14px 22px; align-items: flex-start; }
.heat table { border-collapse: separate; border-spacing: 2px; font-size: 12.5px; font-variant-numeric: tabular-nums; }
.heat th { font-weight: 500; color: var(--soft); padding: 1px 6px; text-align: center; white-space: nowrap; }
.heat tbody th { text-align: right; }
.heat td { min-width: 78px; padding: 4px 6px; text-align: center; border-radius: 4px; white-space: nowrap; color: var(--cold-ink);
  background: var(--cold); background: color-mix(in oklab, var(--hot) calc(var(--v, 0) * 100%), var(--cold)); }
.heat td.hot { color: var(--hot-ink); } .heat td.bad { color: var(--bad); }
.scale { display: flex; align-items: center; gap: 8px; color: var(--soft); font-size: 13px; margin: 10px 0 0; }
.scale b { width: 150px; height: 10px; border-radius: 5px; background: linear-gradient(to right in oklab, var(--cold), var(--hot)); }
.samples { display: grid; gap: 14px; margin-top: 12px; }
.sample { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 16px 14px; min-width: 0; }
.sample > p { margin: 0 0 8px; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 10px 26px; }
.sides h4 { margin: 0 0 2px; font-size: 13px; font-weight: 500; color: var(--soft); }
.sides p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.scroll.tall { max-height: 460px; overflow-y: auto; }
.data { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.data th, .data td { text-align: left; vertical-align: top; padding: 6px 14px; border-top: 1px solid var(--rule); }
.data tr:first-child > * { border-top: 0; }
.data thead th { color: var(--soft); font-weight: 500; position: sticky; top: 0; background: var(--card); }
.data tbody th { font-weight: 500; color: var(--soft); white-space: nowrap; }
.data td { overflow-wrap: anywhere; } .data .n { text-align: right; white-space: nowrap; }
.data tr.differs > * { background: color-mix(in oklab, var(--accent) 9%, transparent); }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); padding: 2px 0; }
summary + * { margin-top: 8px; }
pre { margin: 0; padding: 12px 16px; line-height: 1.45; overflow-x: auto; }
.ok { color: var(--good); } .dead { color: var(--bad); }
footer { margin-top: 46px; color: var(--soft); font-size: 13px; }
@media (max-width: 720px) {
  main { padding: 20px 14px 30px; }
  .charts { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile b { font-size: 19px; }
  .wide .plot { flex-basis: 220px; }
  .legend { margin-left: 0; flex-basis: 100%; }
  .heat table { width: 100%; } .heat td { min-width: 0; padding: 3px 2px; } .heat th { padding: 1px 2px; }
  .data tbody th { white-space: normal; } .data th, .data td { padding: 6px 10px; }
}
@media print { details:not([open]) > * { display: block; } .scroll.tall { max-height: none; } }
`;
