"""ColQwen2 on Qwen2-VL."""
