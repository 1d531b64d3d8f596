"""Small tokenizers, built as the published ones are."""
