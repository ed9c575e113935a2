"""The documents of YAML files as one JSON array; a key that stands twice is refused."""

import json
import sys

import yaml


class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


documents = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        documents.extend(document for document in yaml.load_all(file, Loader=Strict) if document is not None)
json.dump(documents, sys.stdout, default=str)
