"""PaliGemma: `config` reads sizes, `names` maps weights, `towers` computes, `steps` describes the graphs."""
