"""Estimators for scikit-learn: embeddings, imputation and outliers of tables.

They take arrays and DataFrames, with missing values, without any scaling.
"""

from lowerbound.sklearn.estimators import VAE, VAEImputer
from lowerbound.sklearn.outliers import VAEOutlierDetector

__all__ = ["VAE", "VAEImputer", "VAEOutlierDetector"]
