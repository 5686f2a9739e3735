for (const chart of document.querySelectorAll(".chart")) {
  const { x, lines } = JSON.parse(chart.querySelector("script").textContent);
  const plot = chart.querySelector(".plot");
  const show = (n) => (Math.abs(n) >= 1000 ? Math.round(n).toLocaleString("en") : String(+n.toPrecision(4)));
  const add = (name, parent) => Object.assign(parent.appendChild(document.createElement("div")), { className: name });
  let shown = [];
  const hide = () => { for (const part of shown) part.remove(); shown = []; };
  const move = (event) => {
    hide();
    const box = plot.getBoundingClientRect();
    const at = (100 * (event.clientX - box.left)) / box.width;
    const near = lines.map((l) => ({ ...l, p: l.points.reduce((a, b) => (Math.abs(b[2] - at) < Math.abs(a[2] - at) ? b : a)) }));
    const cursor = add("cursor", plot), tip = add("tip", plot);
    const left = near.reduce((a, b) => (Math.abs(b.p[2] - at) < Math.abs(a.p[2] - at) ? b : a)).p;
    cursor.style.left = left[2] + "%";
    tip.style[left[2] < 50 ? "left" : "right"] = `calc(${left[2] < 50 ? left[2] : 100 - left[2]}% + 10px)`;
    add("", tip).textContent = `${x} ${show(left[0])}`;
    shown = [cursor, tip];
    for (const { name, index, p } of near) {
      const mark = add(`mark c${index % 6}`, plot), row = add(`c${index % 6}`, tip);
      mark.style.left = p[2] + "%"; mark.style.top = p[3] + "%";
      add("dot", row); row.append(lines.length > 1 ? `${name}: ${show(p[1])}` : show(p[1]));
      shown.push(mark);
    }
  };
  plot.addEventListener("pointermove", move);
  plot.addEventListener("pointerdown", move);
  plot.addEventListener("pointerleave", hide);
}
for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.querySelectorAll("figure")], slider = film.querySelector("input");
  slider.hidden = frames.length < 2;
  slider.addEventListener("input", () => frames.forEach((f, i) => f.classList.toggle("on", i === +slider.value)));
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling.textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(button.previousElementSibling); button.textContent = "Selected"; }
  });
}
