// Draws the diagrams: code blocks in the language "mermaid", in the colours of the page.

const sources = new Map();

function isDark() {
  const theme = document.body.dataset.theme;
  return theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

async function draw() {
  mermaid.initialize({ startOnLoad: false, theme: isDark() ? "dark" : "neutral", securityLevel: "strict" });
  for (const [figure, source] of sources) {
    figure.textContent = source;
    delete figure.dataset.processed;
  }
  await mermaid.run({ nodes: [...sources.keys()] });
}

document.addEventListener("DOMContentLoaded", () => {
  // Without Mermaid, readers see the diagrams' source.
  if (!window.mermaid) return;
  for (const block of document.querySelectorAll(".highlight-mermaid")) {
    const figure = document.createElement("pre");
    figure.className = "mermaid";
    sources.set(figure, block.querySelector("pre").textContent);
    block.replaceWith(figure);
  }
  if (!sources.size) return;
  draw();
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
});
