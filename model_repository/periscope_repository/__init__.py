"""The wiring of a served retriever: one folder per kind of model, a `config.pbtxt` template and its `model.py`.

`preprocess` runs in Triton's Python backend, `graph` is any exported graph, `embed_text` and `embed_image` are the
ensembles, named by what comes in. `docs/model-repository.md` lists every model and tensor.
"""
