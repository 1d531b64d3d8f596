"""Training of the demonstration's retriever: from drawn pages to a checkpoint in the published layout."""
