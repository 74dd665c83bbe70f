"""What step 7 tells people: the verdict in words, and the page on which every number rests."""
