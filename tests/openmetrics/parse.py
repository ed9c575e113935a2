"""Parses OpenMetrics from stdin as its reference parser does, and prints `name type samples` of each family."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, len(family.samples))
