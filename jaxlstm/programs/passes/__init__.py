"""Passes: functions from graph to graph, made of rules of `jaxlstm.programs.graph.rewrite`."""
