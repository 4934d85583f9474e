"""The towns as drawn are the towns as committed: junction for junction, road for road."""

import importlib
from xml.etree import ElementTree

import numpy as np
import pytest

from efficientgen.worldsim.town import SCENARIO_DIR, load_town


@pytest.fixture
def make_towns(monkeypatch):
    monkeypatch.syspath_prepend(str(SCENARIO_DIR))
    return importlib.import_module("make_towns")


@pytest.mark.parametrize("name", ["elm", "birch", "cedar", "maple", "oak"])
def test_the_drawing_is_the_committed_town(make_towns, name):
    nodes, edges, deletions = (ElementTree.fromstring(text) for text in make_towns.TOWNS[name]().xml())
    net = load_town(name).net
    drawn = {n.get("id"): (float(n.get("x")), float(n.get("y"))) for n in nodes}
    built = {n.getID(): n.getCoord()[:2] for n in net.getNodes() if n.getType() != "internal"}
    assert drawn.keys() == built.keys()
    assert max(np.hypot(*np.subtract(drawn[n], built[n])) for n in drawn) < 0.02
    roads = {e.get("id"): (e.get("from"), e.get("to"), float(e.get("speed"))) for e in edges if e.tag == "edge"}
    assert roads == {
        e.getID(): (e.getFromNode().getID(), e.getToNode().getID(), pytest.approx(e.getSpeed(), abs=0.01))
        for e in net.getEdges(withInternal=False)
    }
    rings = {frozenset(e.get("edges").split()) for e in edges if e.tag == "roundabout"}
    assert rings == {frozenset(r.getEdges()) for r in net.getRoundabouts()}
    for deletion in deletions:
        links = net.getEdge(deletion.get("from")).getOutgoing()
        assert net.getEdge(deletion.get("to")) not in links
