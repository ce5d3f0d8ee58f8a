// Plays recorded episodes of CartPole, one lane each, from the JSON inside `.cartpole-player`.
// It starts when asked to. Where motion is unwelcome, it shows stills, one a second.
(() => {
  "use strict";
  const drawing = `<p><b></b><span></span></p>
    <svg viewBox="-2.75 -1.3 5.5 1.6" aria-hidden="true">
      <path class="track" d="M-2.4 .1v.12h4.8v-.12"/>
      <g><path class="pole" d="M0 0V-1.1"/><rect class="cart" x="-.28" y="-.02" width=".56" height=".24" rx=".05"/></g>
    </svg>`;
  const controls = `<button type="button">Play</button><input type="range" min="0" value="0" aria-label="step">`;
  const add = (parent, name, className, html = "") => {
    const element = parent.appendChild(document.createElement(name));
    element.className = className;
    element.innerHTML = html;
    return element;
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const lane = (stage, episode) => {
    const row = add(stage, "div", "cartpole-lane", drawing);
    const [name, state] = row.querySelectorAll("b, span");
    const [cart, pole] = row.querySelectorAll("g, .pole");
    name.textContent = episode.name;
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
    const stage = add(player, "div", "cartpole-lanes");
    const lanes = episodes.map((episode) => lane(stage, episode));
    const [button, slider] = add(player, "div", "cartpole-controls", controls).children;
    slider.step = every;
    slider.max = last;
    const spoken = add(player, "p", "cartpole-spoken");
    spoken.setAttribute("role", "status");
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
