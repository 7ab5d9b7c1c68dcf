"""Headers of series that were never merged: names and values as the patches had them."""
