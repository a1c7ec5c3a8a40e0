"""Writes what device.py measured as tables, and compares the times of steps."""

from __future__ import annotations

from typing import Any

# The recipes whose model a task is, as it is named in the results.
RECIPES = {"mnist": "aevb-bernoulli", "faces": "aevb-gaussian", "iwae": "iwae, K = 50"}


def write_tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [", ".join(f"{key} {value}" for key, value in results["machine"].items()), ""]
    for name, section in results.items():
        if name in ("machine", "profile"):
            continue
        lines += [f"**{name}**", "", "| what | measured |", "|---|---|"]
        rows = section if isinstance(section, dict) else {"error": section}
        lines += [f"| {key} | {format_value(value)} |" for key, value in rows.items()]
        lines.append("")
    return "\n".join(lines)


def compute_ratios(results: dict[str, Any]) -> dict[str, Any]:
    """How many times longer the others' steps take than the recorded ones."""
    found: dict[str, Any] = {}
    for key, ways in results.get("steps", {}).items():
        recipe, _, precision = key.rpartition(", ")
        ours = ways.get("recorded")
        others = {"uncompiled": ways.get("uncompiled")}
        if precision == "float32":
            others["the CPU, uncompiled"] = results.get("cpu", {}).get(recipe, {}).get("uncompiled")
            others["the CPU, compiled"] = results.get("cpu", {}).get(recipe, {}).get("compiled")
        for name, value in results.get("jax", {}).get(key, {}).items():
            others[f"JAX, {name}"] = value
        if key == f"{RECIPES['mnist']}, float32":
            others["by hand"] = results.get("plain", {}).get("fused Adam")
        usable = {name: value for name, value in others.items() if isinstance(value, float)}
        if isinstance(ours, float):
            found[key] = {name: value / ours for name, value in usable.items()}
    return found


def format_value(value: Any) -> str:
    """Write a result on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {format_value(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\n", " ")
