"""YAML in which no key stands twice."""

from collections.abc import Hashable
from typing import Any

import yaml


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's loader, which by itself keeps the last of two equal keys and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            # merge keys (<<) are flattened by PyYAML, what they bring may be overridden
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(key_node)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping", node.start_mark, f"found {key!r} twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_unique(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: It is no YAML, or a key stands twice in one mapping.
    """
    # as safe as yaml.safe_load: the loader is a SafeLoader
    return yaml.load(text, Loader=_UniqueKeyLoader)
