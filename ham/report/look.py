"""The style sheet of the report: light and dark, for a screen, a phone and paper. Fonts are those that the reader has."""

CSS = (
    """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1e2126; --soft: #5d636d; --rule: #e3dfd6;
  --accent: #1d5fa6; --wash: #f1eee7; --c0: #2a6fb0; --c1: #cf5f17; --c2: #2b8658; --c3: #8450b5; --c4: #7a7f88; --c5: #b08a12;
  --right: #1a8a43; --wrong: #d0312d; --cloud: #b9bcc2;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", "Liberation Serif", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1b1e24; --ink: #e7e5e0; --soft: #a3a8b1;
  --rule: #31353d;
  --accent: #86b9f2; --wash: #20242b; --c0: #6fb0ee; --c1: #f0955a; --c2: #63c493; --c3: #bd94e6; --c4: #9aa0aa; --c5: #dcb949;
  --right: #4cc47a; --wrong: #f26d68; --cloud: #4a4f58; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 var(--sans); overflow-wrap: anywhere; }
main, header, footer, nav { max-width: 1080px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 64px; }
h1 { font: 500 44px/1.12 var(--serif); letter-spacing: -.015em; margin: 0 0 18px; max-width: 20em; text-wrap: balance; }
h2 { font: 500 28px/1.2 var(--serif); letter-spacing: -.01em; margin: 0 0 14px; }
h3 { font: 600 14px/1.35 var(--sans); margin: 0; }
p { margin: 0 0 12px; max-width: 68ch; } p.note { max-width: 860px; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
img { max-width: 100%; height: auto; }
.kicker { font: 600 12px/1 var(--sans); letter-spacing: .12em; text-transform: uppercase; color: var(--accent);
  margin: 0 0 14px; }
.lead { font-size: 19px; line-height: 1.55; color: var(--ink); max-width: 60ch; }
.note, small { color: var(--soft); font-size: 13.5px; line-height: 1.5; }
.caution { border-left: 3px solid var(--c1); padding: 2px 0 2px 16px; margin: 22px 0 0; color: var(--soft); font-size: 15px; }
.caution p { margin: 0; max-width: 76ch; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 34px 0 0; padding: 13px 0; font-size: 14px;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
nav a { text-decoration: none; }
section { padding: 52px 0 0; }
.told { display: grid; grid-template-columns: 88px minmax(0, 1fr); gap: 4px 18px; margin: 0 0 22px; max-width: 860px; }
.told dt { font: 600 12px/1.6 var(--sans); letter-spacing: .04em; color: var(--soft); padding-top: 3px; }
.told dd { margin: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 22px 28px; margin: 32px 0 0; }
.figures div { border-top: 2px solid var(--ink); padding-top: 10px; }
.figures b { display: block; font: 500 30px/1.15 var(--serif); letter-spacing: -.01em; font-variant-numeric: lining-nums; }
.figures span { color: var(--soft); font-size: 13.5px; line-height: 1.4; display: block; margin-top: 4px; }
.steps { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 26px; }
.steps li { position: relative; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 14px 14px 12px;
  font-size: 14px; line-height: 1.45; display: flex; flex-direction: column; }
.steps li + li::before { content: "\\2192"; position: absolute; left: -22px; top: 40%; color: var(--soft); font-size: 17px; }
.steps em { font: 500 13px/1 var(--serif); color: var(--accent); font-style: normal; }
.steps h3 { margin: 5px 0 6px; font-size: 15px; }
.steps p { margin: 0 0 10px; }
.steps b { font-weight: 600; font-variant-numeric: tabular-nums; }
.steps small { margin-top: auto; border-top: 1px solid var(--rule); padding-top: 8px; font-size: 12.5px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); gap: 26px 30px;
  margin: 0 0 20px; }
figure { margin: 0; }
.chart { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 14px 12px;
  max-width: 520px; }
.chart figcaption { font: 600 14px/1.35 var(--sans); margin-bottom: 8px; }
svg { display: block; width: 100%; height: auto; font-family: var(--sans); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 8px 0 0; padding: 0; color: var(--soft);
  font-size: 13px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
  line.grid { stroke: var(--rule); }
.tick { font-size: 10.5px; fill: var(--soft); } .axis { font-size: 10.5px; fill: var(--soft); }
.ground { fill: var(--wash); } .cloud, .centres { fill: none; stroke-linecap: round; }
.cloud { stroke: var(--cloud); stroke-width: 2.4; } .centres { stroke-width: 6; stroke-opacity: .85; }
"""
    + "".join(
        f"svg .c{n} {{ stroke: var(--c{n}); }} svg .mark.c{n} {{ fill: var(--c{n}); }} "
        f"i.c{n} {{ background: var(--c{n}); }}\n"
        for n in range(6)
    )
    + """
.two { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.bars { display: flex; flex-direction: column; } .bars .note { margin: 2px 0 10px; flex: 1; }
.bars .row { display: grid; grid-template-columns: 5.6em minmax(0, 1fr) 3.6em; gap: 10px; align-items: center; font-size: 14px;
  padding: 3px 0; }
.bars .track { background: var(--wash); border-radius: 3px; height: 14px; overflow: hidden; }
.bars .track i { display: block; height: 100%; border-radius: 3px; }
.bars b { font-weight: 600; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; margin: 0 0 16px; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: 15px; line-height: 1.4; }
td.n { font-variant-numeric: tabular-nums; }
th { font-weight: 600; font-size: 13px; color: var(--soft); text-align: left; vertical-align: bottom; }
td, th { padding: 7px 22px 7px 0; border-bottom: 1px solid var(--rule); } td { vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
th.group { color: var(--ink); font-size: 14px; padding-top: 18px; }
tr.strong td { font-weight: 600; } tr.pale td { color: var(--soft); }
.people { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 22px 30px; }
.person { display: grid; grid-template-columns: 76px minmax(0, 1fr); gap: 14px; font-size: 14.5px; line-height: 1.5;
  align-items: start; }
.person img { width: 76px; border-radius: 5px; display: block; } .person p { margin: 0 0 6px; }
.portrait { display: grid; grid-template-columns: 168px minmax(0, 1fr); gap: 32px; align-items: start; }
.portrait > figure { position: sticky; top: 20px; } .portrait > figure img { width: 100%; border-radius: 7px; display: block; }
.portrait figcaption { margin-top: 9px; }
.voices { display: grid; gap: 0; }
.voice { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 4px 28px; padding: 13px 0;
  border-top: 1px solid var(--rule); }
.voice:first-child { border-top: 0; padding-top: 0; }
.voice blockquote { margin: 0; font: 17px/1.5 var(--serif); } .voice .human { font-size: 14.5px; line-height: 1.5;
  color: var(--soft); }
.voice small { display: block; margin-top: 3px; }
.good { color: var(--right); } .bad { color: var(--wrong); }
.query { border-top: 1px solid var(--rule); padding: 18px 0; display: grid; gap: 12px 26px;
  grid-template-columns: minmax(0, 5fr) minmax(0, 14fr); }
.query figcaption { display: flex; gap: 14px; align-items: flex-start; font: 16px/1.45 var(--serif); }
.query figcaption img { width: 46px; flex: none; border-radius: 4px; display: block; }
.query figcaption small { font-family: var(--sans); display: block; }
.hits { display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); gap: 7px; list-style: none; margin: 0; padding: 0; }
.hits img, .hits .lost { display: block; width: 100%; aspect-ratio: 2 / 5; object-fit: cover; border: 3px solid var(--rule);
  border-radius: 5px; background: var(--wash); }
.lost, .hits .lost { font-size: 11px; line-height: 1.3; padding: 6px 3px; color: var(--soft); white-space: normal; }
.hits .right img { border-color: var(--right); } .hits .wrong img { border-color: var(--wrong); }
.hits span { display: block; text-align: center; font-size: 12px; color: var(--soft); font-variant-numeric: tabular-nums;
  margin-top: 3px; white-space: nowrap; }
.hits .right span { color: var(--right); font-weight: 600; } .hits .wrong span { color: var(--wrong); }
.pair { margin-bottom: 18px; align-items: start; display: grid; gap: 30px 48px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.facts { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 5px 20px; margin: 0; font-size: 14.5px; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
footer { padding: 56px 28px 64px; color: var(--soft); font-size: 13.5px; }
footer p { border-top: 1px solid var(--rule); padding-top: 16px; max-width: none; }
@media (max-width: 860px) { .query { grid-template-columns: minmax(0, 1fr); }
  .steps { grid-template-columns: minmax(0, 1fr); gap: 28px; }
  .steps li + li::before { content: "\\2193"; left: 50%; top: -27px; margin-left: -6px; } }
@media (max-width: 640px) { body { font-size: 15.5px; } main, header, nav, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 36px; } h1 { font-size: 32px; } h2 { font-size: 24px; } .lead { font-size: 17px; }
  section { padding-top: 42px; }
  .told { grid-template-columns: minmax(0, 1fr); } .told dd { margin-bottom: 6px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 18px; } .figures b { font-size: 25px; }
  td, th { padding-right: 10px; } table { font-size: 13.5px; } th { font-size: 12px; }
  .portrait { grid-template-columns: minmax(0, 1fr); gap: 18px; }
  .portrait > figure { position: static; display: grid; grid-template-columns: 92px minmax(0, 1fr); gap: 14px;
  align-items: start; }
  .portrait figcaption { margin: 0; } .voice { grid-template-columns: minmax(0, 1fr); gap: 8px; }
  .voice .human { border-left: 2px solid var(--rule); padding-left: 12px; }
  .hits { grid-template-columns: repeat(5, minmax(0, 1fr)); } }
@media print { @page { margin: 15mm; } :root { --paper: #fff; --wash: #f3f1ec; }
  body { font-size: 10.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; } nav { display: none; }
  main, header, footer { padding-left: 0; padding-right: 0; max-width: none; } header { padding-top: 0; }
  h1 { font-size: 27pt; } h2 { font-size: 17pt; break-after: avoid; } section { padding-top: 26pt; }
  .told { break-inside: avoid; break-after: avoid; }
  .chart, .query, .voice, .person, .bars, tr, .figures, .steps li, .facts { break-inside: avoid; }
  .steps { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 16px; } .steps li { font-size: 8pt; padding: 9px; }
  .steps li + li::before { content: "\\2192"; left: -15px; top: 40%; margin: 0; font-size: 13px; }
  .steps small { font-size: 7.5pt; }
  .two { grid-template-columns: 1fr 1fr; } .pair { gap: 20px 28px; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
  table { font-size: 8.5pt; } td, th { padding: 3px 9px 3px 0; } .portrait { grid-template-columns: 110px minmax(0, 1fr);
  gap: 22px; }
  .query { grid-template-columns: minmax(0, 4fr) minmax(0, 10fr); padding: 9px 0; } .query figcaption { font-size: 9.5pt; }
  .hits { grid-template-columns: repeat(10, minmax(0, 1fr)); gap: 4px; } .hits span { font-size: 7pt; }
  footer { padding: 20px 0 0; }
  .portrait > figure { position: static; } .wide { overflow: visible; } a { color: inherit; text-decoration: none; } }
@media print and (prefers-color-scheme: dark) { :root { --card: #fff; --ink: #1e2126; --soft: #5d636d; --rule: #ddd8cf;
  --accent: #1d5fa6; --c0: #2a6fb0; --c1: #cf5f17; --c2: #2b8658; --c3: #8450b5; --c4: #7a7f88; --c5: #b08a12; --right: #1a8a43;
  --wrong: #d0312d; --cloud: #b9bcc2; } }
"""
)
