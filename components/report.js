for (const button of document.querySelectorAll(".call button")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    // Not navigator.clipboard, which frames of other origins may not use.
    getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
    const copied = document.execCommand("copy");
    button.textContent = copied ? "Copied" : "Selected: now press Ctrl+C";
    document.getElementById("copied").textContent = button.textContent;
    if (copied) getSelection().removeAllRanges();
  });
}
