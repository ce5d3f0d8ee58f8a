// Plays recorded episodes of CartPole, one lane each, from the JSON inside `.cartpole-player`.
// It starts when asked to. Where motion is unwelcome, it shows stills, one a second.
(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const make = (parent, name, attributes, text) => {
    const svg = parent.namespaceURI === NS || name === "svg";
    const element = svg ? document.createElementNS(NS, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return parent.appendChild(element);
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const lane = (stage, episode) => {
    const row = make(stage, "div", { class: "cartpole-lane" });
    const line = make(row, "p", {});
    make(line, "b", {}, episode.name);
    const state = make(line, "span", {});
    const svg = make(row, "svg", { viewBox: "-2.75 -1.3 5.5 1.6", "aria-hidden": "true" });
    make(svg, "path", { d: "M-2.4 .1v.12h4.8v-.12", class: "track" });
    const cart = make(svg, "g", {});
    const pole = make(cart, "path", { d: "M0 0V-1.1", class: "pole" });
    make(cart, "rect", { x: -0.28, y: -0.02, width: 0.56, height: 0.24, rx: 0.05, class: "cart" });
    return (step, every) => {
      const over = step >= episode.steps;
      const frame = over ? episode.x.length - 1 : Math.floor(step / every);
      cart.setAttribute("transform", `translate(${episode.x[frame]} 0)`);
      pole.setAttribute("transform", `rotate(${(episode.angle[frame] * 180) / Math.PI})`);
      row.classList.toggle("over", over);
      const words = over ? `${episode.end}, ${episode.steps} steps` : `step ${step}`;
      state.textContent = ` · ${words}`;
      return `${episode.name}: ${words}`;
    };
  };

  const build = (player) => {
    const { seconds, every, episodes } = JSON.parse(player.querySelector("script").textContent);
    const longest = Math.max(...episodes.map((episode) => episode.steps));
    const last = Math.ceil(longest / every) * every;
    const stage = make(player, "div", { class: "cartpole-lanes" });
    const lanes = episodes.map((episode) => lane(stage, episode));
    const controls = make(player, "div", { class: "cartpole-controls" });
    const button = make(controls, "button", { type: "button" }, "Play");
    const slider = make(controls, "input", { type: "range", min: 0, max: last, step: every, value: 0, "aria-label": "step" });
    const spoken = make(player, "p", { class: "cartpole-spoken", role: "status" });
    let timer = null;

    const show = (step) => {
      slider.value = step;
      const words = lanes.map((draw) => draw(step, every)).join("; ");
      slider.setAttribute("aria-valuetext", `step ${step}`);
      if (!timer) spoken.textContent = words;
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
      show(Number(slider.value));
    };
    const play = () => {
      const jump = calm.matches ? 25 * every : every;
      const wait = calm.matches ? 1000 : 1000 * seconds;
      if (Number(slider.value) >= last) slider.value = 0;
      button.textContent = "Pause";
      timer = setInterval(() => {
        const next = Math.min(Number(slider.value) + jump, last);
        show(next);
        if (next >= last) stop();
      }, wait);
    };
    button.addEventListener("click", () => (timer ? stop() : play()));
    slider.addEventListener("input", () => (timer ? stop() : show(Number(slider.value))));
    // Space plays and pauses from the slider too.
    slider.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
    show(0);
    player.hidden = false;
  };
  document.querySelectorAll(".cartpole-player").forEach(build);
})();
