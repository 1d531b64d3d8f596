"""jina-clip: `config` reads sizes, `names` maps weights, `eva02` and `jina_bert` compute, `steps` describes graphs."""
