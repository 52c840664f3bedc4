// SPDX-License-Identifier: Apache-2.0
/** The report's one script: the values under the pointer, or under the arrow keys. The page is whole without it. */

export const SCRIPT = `
for (const plot of document.querySelectorAll('.plot')) {
  const series = JSON.parse(plot.querySelector('script').textContent);
  const cursor = plot.querySelector('.cursor');
  const tip = plot.querySelector('.tip');
  const places = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
  let at = -1;
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  const show = (index) => {
    at = Math.max(0, Math.min(places.length - 1, index));
    const x = places[at];
    cursor.style.left = 100 * x + '%';
    const rows = series.map((one) => [one, nearest(one.points, x)]).filter(([, point]) => Math.abs(point[0] - x) < 0.03);
    const head = document.createElement('b');
    head.textContent = 'step ' + Math.round(nearest(rows.flatMap(([one]) => one.points), x)[2]).toLocaleString('en-US');
    tip.replaceChildren(head, ...rows.map(([one, point]) => {
      const row = document.createElement('div');
      row.className = 'c' + one.color;
      row.textContent = (series.length > 1 ? one.label + ' ' : '') + point[3];
      return row;
    }));
    cursor.hidden = tip.hidden = false;
    const room = plot.clientWidth - tip.offsetWidth;
    const left = x * plot.clientWidth;
    tip.style.left = Math.max(0, Math.min(room, left > plot.clientWidth / 2 ? left - tip.offsetWidth - 10 : left + 10)) + 'px';
  };
  const hide = () => { cursor.hidden = tip.hidden = true; at = -1; };
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    show(places.indexOf(places.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a))));
  });
  plot.addEventListener('pointerleave', hide);
  plot.addEventListener('blur', hide);
  plot.addEventListener('keydown', (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(at < 0 ? (move > 0 ? 0 : places.length - 1) : at + move);
  });
}
`;
