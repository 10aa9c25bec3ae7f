"""A sweep in pictures: figures as data, the page that shows them, and files of them."""
