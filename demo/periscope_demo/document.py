"""The document of the demonstration: a PDF of several pages with text, a table and charts, made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.charts.linecharts import HorizontalLineChart
from reportlab.graphics.charts.piecharts import Pie
from reportlab.graphics.shapes import Drawing
from reportlab.lib import colors
from reportlab.lib.pagesizes import A5
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Flowable, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

QUERIES = ("revenue by region", "energy used per month", "how many visitors came on Sunday")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun")


def make_document(path: Path) -> Path:
    """Write the PDF, the same bytes at every call, and return its path."""
    pages = [
        ("Annual report of the harbour museum", [_text("summary"), _text("outlook")]),
        ("Revenue by region", [_text("revenue"), _table()]),
        ("Energy per month", [_text("energy"), _bars((420, 390, 350, 280, 210, 190))]),
        ("Visitors by day", [_text("visitors"), _lines((120, 130, 150, 210, 380, 460))]),
        ("Where the money goes", [_text("costs"), _shares((45, 25, 20, 10), ("staff", "building", "energy", "other"))]),
    ]
    styles = getSampleStyleSheet()
    flow: list[Flowable] = []
    for heading, content in pages:
        flow += [Paragraph(heading, styles["Title"])]
        for flowable in content:
            flow += [flowable, Spacer(1, 12)]
        flow.append(PageBreak())
    SimpleDocTemplate(str(path), pagesize=A5, title="Annual report", invariant=1).build(flow)
    return path


def _text(topic: str) -> Flowable:
    sentences = {
        "summary": "The museum was open on 304 days. This report tells who came, what it cost and who paid.",
        "outlook": "Next year a second hall opens on the north pier, with room for the lifeboats.",
        "revenue": "Tickets sold in the north bring in most of the revenue; the west grows fastest.",
        "energy": "Heating decides the energy bill: January takes twice as much as June.",
        "visitors": "Most visitors come on Sunday, fewest on Tuesday. School classes come on Thursday.",
        "costs": "Staff is the largest cost, then the building. Energy fell for the second year.",
    }
    return Paragraph(sentences[topic], getSampleStyleSheet()["BodyText"])


def _table() -> Flowable:
    rows = [["Region", "Tickets", "Revenue"], ["North", "8,410", "92,510"], ["South", "5,260", "57,860"]]
    rows += [["West", "4,120", "45,320"], ["East", "2,980", "32,780"]]
    table = Table(rows, hAlign="LEFT")
    grid = ("GRID", (0, 0), (-1, -1), 0.5, colors.grey)
    table.setStyle(TableStyle([grid, ("BACKGROUND", (0, 0), (-1, 0), colors.lightsteelblue)]))
    return table


def _bars(values: Sequence[float]) -> Flowable:
    chart = VerticalBarChart()
    chart.data = [tuple(values)]
    chart.categoryAxis.categoryNames = list(_MONTHS)
    chart.valueAxis.valueMin = 0
    chart.bars[0].fillColor = colors.darkorange
    return _drawing(chart)


def _lines(values: Sequence[float]) -> Flowable:
    chart = HorizontalLineChart()
    chart.data = [tuple(values)]
    chart.categoryAxis.categoryNames = ["Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    chart.lines[0].strokeColor = colors.seagreen
    return _drawing(chart)


def _shares(values: Sequence[float], labels: Sequence[str]) -> Flowable:
    chart = Pie()
    chart.data, chart.labels = list(values), list(labels)
    return _drawing(chart)


def _drawing(chart: VerticalBarChart | HorizontalLineChart | Pie) -> Flowable:
    chart.x, chart.y, chart.width, chart.height = 40, 20, 220, 140
    drawing = Drawing(300, 180)
    drawing.add(chart)
    return drawing
