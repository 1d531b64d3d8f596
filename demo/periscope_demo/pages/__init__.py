"""Pages that look like documents, drawn from seeds, with the place of every word on them."""
