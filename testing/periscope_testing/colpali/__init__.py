"""ColPali on PaliGemma."""
