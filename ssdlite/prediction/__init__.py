"""Pictures, films and cameras through any model and out again as pictures, films and records; without PyTorch."""
