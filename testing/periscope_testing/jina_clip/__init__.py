"""jina-clip: JinaBERT and EVA02."""
