"""What runs inside Triton: image and text preparation. numpy, pillow and tokenizers only."""
