"""What the published training recipes need beside PaddleClas: the section `Recipe` of a YAML file (docs/recipe.md)."""
