"""A small vision-language model, trained from scratch on drawn pages and screens, to measure accuracy on."""
