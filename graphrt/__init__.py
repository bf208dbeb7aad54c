"""graphrt: a compiler-style graph runtime for deep learning."""

from graphrt import errors, ops
from graphrt.autodiff import grad
from graphrt.compiler import compile
from graphrt.ir import Graph, Node, Value
from graphrt.runtime.program import Program
from graphrt.runtime.state import State

__all__ = ["Graph", "Node", "Program", "State", "Value", "compile", "errors", "grad", "ops"]
