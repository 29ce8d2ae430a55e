
"use strict";
const slider = document.getElementById("step");
if (slider) {
  const steps = slider.dataset.steps.split(" ").map(Number);
  const show = () => {
    const place = Number(slider.value);
    const text = "step " + steps[place].toLocaleString("en-US");
    document.querySelector(".slider output").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    for (const frames of document.querySelectorAll(".frames")) {
      const due = [...frames.children].filter((frame) => Number(frame.dataset.from) <= place);
      for (const frame of frames.children) frame.hidden = frame !== due[due.length - 1];
    }
  };
  slider.addEventListener("input", show);
  document.querySelector(".slider").hidden = false;
  show(); // a browser may have kept the slider's place over a reload
}
