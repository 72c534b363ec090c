"""Parts of optimisation steps that the usual optimisers do not have."""
