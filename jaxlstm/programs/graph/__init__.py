"""The graph of a program as plain data, and its values."""

from jaxlstm.programs.graph.graph import Argument as Argument
from jaxlstm.programs.graph.graph import AxisRange as AxisRange
from jaxlstm.programs.graph.graph import Graph as Graph
from jaxlstm.programs.graph.graph import Input as Input
from jaxlstm.programs.graph.graph import ModuleCall as ModuleCall
from jaxlstm.programs.graph.graph import Node as Node
from jaxlstm.programs.graph.graph import Size as Size
from jaxlstm.programs.graph.graph import TensorType as TensorType
from jaxlstm.programs.graph.graph import Tree as Tree
from jaxlstm.programs.graph.graph import Value as Value
from jaxlstm.programs.graph.graph import place_of as place_of
from jaxlstm.programs.graph.graph import shown_shape as shown_shape
from jaxlstm.programs.graph.values import all_nodes as all_nodes
from jaxlstm.programs.graph.values import functions_of as functions_of
from jaxlstm.programs.graph.values import graph_with_nodes as graph_with_nodes
from jaxlstm.programs.graph.values import named_results as named_results
from jaxlstm.programs.graph.values import renamed_argument as renamed_argument
from jaxlstm.programs.graph.values import results_of as results_of
from jaxlstm.programs.graph.values import unused_inputs as unused_inputs
from jaxlstm.programs.graph.values import used_values as used_values
from jaxlstm.programs.graph.values import uses_of as uses_of
from jaxlstm.programs.graph.values import values_in as values_in
from jaxlstm.programs.graph.values import with_names as with_names
