"""What is trained and how it is judged.

Belongs here: MONAI networks that train under Opacus as they are, their parameters as one
vector, losses of each record alone, metrics with their intervals, plain training for the
baselines, the tuned recipes, model cards, and models as files: ONNX, and MONAI bundles in both
directions. Does not belong here: Flower, noise and budgets, files of patients, anything a site or
server decides.
"""
