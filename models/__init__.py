"""What is trained and how it is judged.

Belongs here: MONAI networks that train under Opacus as they are, their parameters as one
vector, metrics, plain training for the baselines, the tuned recipes and model cards. Does not
belong here: Flower, noise and budgets, files of patients, anything a site or server decides.
"""
