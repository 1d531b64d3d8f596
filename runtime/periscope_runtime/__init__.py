"""Preparation of texts, images and videos, as it runs inside Triton. numpy, pillow and tokenizers only."""
