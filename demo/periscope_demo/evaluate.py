"""`make evaluate`: the demonstration's retriever on its evaluation set, through the running server.

Writes the vectors, `evaluation.csv` (a line a query) and `evaluation.png`, prints a table, and ends with the two
figures that count.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from periscope_client import Embeddings, Retriever
from periscope_client.console import guarded
from periscope_demo.evaluation import KINDS, EvaluationSet, Floats, make_evaluation, measure, measure_each
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.exporter import Request, export, progress
from periscope_serve.server import Server


def main() -> None:
    """Evaluate."""
    parser = argparse.ArgumentParser(prog="python -m periscope_demo.evaluate", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where table and picture go")
    parser.add_argument("--checkpoint", type=Path, default=shipped_checkpoint(), help="another retriever of this kind")
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--queries", type=int, default=240)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    say = progress()
    wanted = make_evaluation(arguments.pages, arguments.queries)
    say(f"evaluation set: {len(wanted.pages)} pages, {len(wanted.queries)} queries")
    with tempfile.TemporaryDirectory() as folder:
        repository = export(Request(str(arguments.checkpoint), SHIPPED_RECIPE, Path(folder) / "repository"), say)
        with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=output / "triton.log") as server:
            say(server.ready_line())
            with Retriever(server.grpc_url, SHIPPED_RECIPE) as retriever:
                queries = retriever.embed_text([query.text for query in wanted.queries])
                pages = retriever.embed_image(page.image for page in wanted.pages)
                queries.save(output / "queries.npz")
                pages.save(output / "pages.npz")
                say("embedded; ranking")
                scores = {"late": retriever.maxsim(queries, pages), "dense": dense_scores(queries, pages)}
    _write_table(output / "evaluation.csv", wanted, scores)
    _draw(output / "evaluation.png", wanted, scores)
    say(f"queries one by one: {output / 'evaluation.csv'}; picture: {output / 'evaluation.png'}")
    print(report(wanted, scores, pages))


def dense_scores(queries: Embeddings, pages: Embeddings) -> Floats:
    """Cosines [Q, N] of dense vectors."""
    scores_QN: Floats = queries.dense_vectors() @ pages.dense_vectors().T
    return scores_QN


def report(wanted: EvaluationSet, scores: dict[str, Floats], pages: Embeddings) -> str:
    """The table, and at its end the two lines `late nDCG@5 <figure>` and `dense nDCG@5 <figure>`."""
    sizes = {
        "late": np.mean([late_TK.nbytes for late_TK in pages.late_vectors()]),
        "dense": pages.dense_vectors().nbytes / len(pages),
    }
    lines = [f"{'':6} {'nDCG@5':>8} {'recall@1':>9} {'first right':>12} {'bytes a page':>13}  nDCG@5 by kind"]
    total = {name: measure(scores_QN, wanted.relevant_QN) for name, scores_QN in scores.items()}
    for name, quality in total.items():
        kinds = ", ".join(f"{kind} {figure:.3f}" for kind, figure in by_kind(wanted, scores[name]).items())
        figures = f"{quality.ndcg5:>8.4f} {quality.recall1:>9.4f} {quality.success1:>12.4f} {sizes[name]:>13.0f}"
        lines.append(f"{name:6} {figures}  {kinds}")
    return "\n".join([*lines, "", *(f"{name} nDCG@5 {quality.ndcg5:.4f}" for name, quality in total.items())])


def by_kind(wanted: EvaluationSet, scores_QN: Floats) -> dict[str, float]:
    """nDCG@5 of the queries of each kind."""
    figures: dict[str, float] = {}
    for kind in KINDS:
        chosen_Q = np.array([query.kind == kind for query in wanted.queries])
        figures[kind] = measure(scores_QN[chosen_Q], wanted.relevant_QN[chosen_Q]).ndcg5
    return figures


def _write_table(path: Path, wanted: EvaluationSet, scores: dict[str, Floats]) -> None:
    each = {name: measure_each(scores_QN, wanted.relevant_QN) for name, scores_QN in scores.items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "kind", "right_pages", *(f"{name}_ndcg5" for name in each), "late_first_page"])
        for number, query in enumerate(wanted.queries):
            figures = [f"{rows[number]['ndcg_cut_5']:.4f}" for rows in each.values()]
            first = int(scores["late"][number].argmax())
            writer.writerow([query.text, query.kind, int(wanted.relevant_QN[number].sum()), *figures, first])


def _draw(path: Path, wanted: EvaluationSet, scores: dict[str, Floats]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, scores_QN) in enumerate(scores.items()):
        columns = np.arange(len(KINDS)) + (place - 0.5) * 0.38
        bars = axes.bar(columns, list(by_kind(wanted, scores_QN).values()), 0.36, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set(xticks=range(len(KINDS)), xticklabels=KINDS, ylim=(0, 1.3), ylabel="nDCG@5", xlabel="a query names ...")
    axes.legend(frameon=False, ncols=2, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(guarded("evaluate", main))
