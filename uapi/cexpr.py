"""Python expressions of the header modules in C: what stands behind a constant, an ioctl, a macro with arguments."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence

__all__ = ["NotInC", "expression", "integer", "known", "literal", "macro"]

_BINARY = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "/", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_UNARY = {ast.Invert: "~", ast.USub: "-", ast.UAdd: "+", ast.Not: "!"}
_BOOL = {ast.And: "&&", ast.Or: "||"}
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class NotInC(ValueError):
    """The Python has no plain counterpart in C."""


def integer(value: int, *, like: str = "") -> str:
    """A C literal of that value, written *like* the Python literal for it."""
    if value < 0:
        low = f"-{-value - 1} - 1" if value == -(1 << 31) else f"-{-value}{'' if value > -(1 << 31) else 'LL'}"
        return f"({low})"
    if value < 1 << 31:
        return like.lower().replace("0o", "0").replace("_", "") if like.isalnum() else str(value)
    return f"{value:#x}{'U' if value < 1 << 32 else 'ULL'}"


def literal(node: ast.expr, text: Sequence[str]) -> str:
    """How a constant is written in the lines *text*."""
    return text[node.lineno - 1][node.col_offset : node.end_col_offset]


def expression(node: ast.expr, text: Sequence[str], names: Callable[[str], str]) -> str:
    """
    *node*, parsed from the lines *text*, in C; *names* gives the C for a name.

    Raises NotInC.
    """
    c = _Translation(text, names)
    return c.of(node)


class _Translation:
    def __init__(self, text: Sequence[str], names: Callable[[str], str]) -> None:
        self.text, self.names = text, names
        self.local: dict[str, str] = {}

    def returned(self, body: Sequence[ast.stmt]) -> str:
        """What a function returns, as one expression: local names are replaced by what they stand for."""
        for number, node in enumerate(body):
            match node:
                case ast.Expr(value=ast.Constant()):
                    continue
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.local[name] = f"({self.of(value)})"
                case ast.Return(value=ast.expr() as value):
                    return self.of(value)
                case ast.If(test=test, body=then, orelse=[]):
                    rest = self.returned(body[number + 1 :])
                    return f"{self.of(test, inside=True)} ? ({self.returned(then)}) : ({rest})"
                case _:
                    break
        raise NotInC("it is more than an expression")

    def of(self, node: ast.expr, *, inside: bool = False) -> str:
        """The expression, in parentheses when it stands *inside* another and needs them."""
        match node:
            case ast.Constant(value=bool() as value):
                return str(int(value))
            case ast.Constant(value=int() as value):
                return integer(value, like=literal(node, self.text))
            case ast.Name(id=name):
                return self.local.get(name) or self.names(name)
            case ast.Call(func=ast.Name(id="ord"), args=[ast.Constant(value=str() as letter)]) if letter.isprintable():
                return f"'{letter}'" if letter not in "'\\" else f"'\\{letter}'"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="sizeof"), args=[]):
                return f"sizeof({self.names(name)})"
            case ast.Call(func=ast.Name(id="int"), args=[one]):
                return self.of(one, inside=inside)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return f"{self.names(name)}({', '.join(self.of(a) for a in args)})"
        text = self._operator(node)
        return f"({text})" if inside else text

    def _operand(self, node: ast.expr, op: ast.operator, *, left: bool) -> str:
        """An operand, in parentheses unless everybody knows which operator comes first."""
        if not isinstance(node, ast.BinOp):
            return self.of(node, inside=True)
        sums, products = (ast.Add, ast.Sub), (ast.Mult,)
        same = left and (type(node.op) is type(op) or (isinstance(node.op, sums) and isinstance(op, sums)))
        return self.of(node, inside=not (same or (isinstance(node.op, products) and isinstance(op, sums))))

    def _operator(self, node: ast.expr) -> str:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                sides = [self._operand(left, op, left=True), self._operand(right, op, left=False)]
                if isinstance(op, ast.LShift) and not isinstance(left, ast.Constant) and self.local:
                    sides[0] = f"(__u64){sides[0]}"  # no bit of an argument falls out, as in Python
                return f" {_BINARY[type(op)]} ".join(sides)
            case ast.UnaryOp(op=op, operand=operand):
                return f"{_UNARY[type(op)]}{self.of(operand, inside=True)}"
            case ast.BoolOp(op=op, values=values):
                return f" {_BOOL[type(op)]} ".join(self.of(v, inside=True) for v in values)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return f"{self.of(left, inside=True)} {_COMPARE[type(op)]} {self.of(right, inside=True)}"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return " ".join([self.of(test, inside=True), "?", self.of(body, inside=True), ":",
                                 self.of(orelse, inside=True)])  # fmt: skip
        raise NotInC(ast.unparse(node))


def macro(function: ast.FunctionDef, text: Sequence[str], names: Callable[[str], str]) -> str:
    """
    The definition of a macro with arguments: of a function that does nothing but to compute.

    Raises NotInC.
    """
    parameters = [a.arg for a in function.args.args]
    c = _Translation(text, names)
    c.local = {name: f"({name})" for name in parameters}
    return f"#define {function.name}({', '.join(parameters)}) ({c.returned(function.body)})"


def known(names: Mapping[str, str]) -> Callable[[str], str]:
    """A function for :func:`expression` that knows only *names*: what each is in C."""

    def check(name: str) -> str:
        if name not in names:
            raise NotInC(f"{name} is not in the header")
        return names[name]

    return check
