"""The docstrings of a class's attributes, which editors show and Python forgets."""

import ast
import inspect


def attribute_docs(cls: type) -> dict[str, str]:
    """The text below each annotated attribute, on one line."""
    (found,) = (
        node
        for node in ast.parse(inspect.getsource(inspect.getmodule(cls))).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    docs = {}
    for attribute, below in zip(found.body, found.body[1:], strict=False):
        match attribute, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs
