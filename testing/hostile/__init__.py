"""The hostile corpus, every case of docs/safety.md in every container to which it applies, and its reader."""
