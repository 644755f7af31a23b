"""Samples: raw images and texts from the files of a user, the same for data sets and for predictions."""
