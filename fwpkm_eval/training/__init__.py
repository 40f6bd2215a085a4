"""Training the models: the recipe, its batches, and the loop. Importing this package loads nothing heavy."""
